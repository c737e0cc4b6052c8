#pragma once

#include <span>
#include <string>
#include <vector>

#include "generate/kept_shares.h"

namespace windowkv::cli {

struct KeptTextStyle {
  bool color = false;      ///< else a percentage before every line
  bool kept_only = false;  ///< put "..." for what nothing keeps
};

/// The prompt's text, shaded by the share of each token; or in lines, which long ones are wrapped into, each
/// behind the mean share of its tokens.
std::string kept_text(const Vocab& vocab, std::span<const Token> prompt, std::span<const double> shares,
                      const KeptTextStyle& style);

/// What shades or percentages stand for. `of`: what a share is a share of, such as "KV heads".
std::string kept_legend(const std::string& of, const KeptTextStyle& style);

}  // namespace windowkv::cli
