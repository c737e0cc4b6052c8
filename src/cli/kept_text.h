#pragma once

#include <span>
#include <string>
#include <vector>

#include "windowkv/engine.h"
#include "windowkv/vocab.h"

namespace windowkv::cli {

/// Neighbouring layers that keep the same tokens of a prompt.
struct KeptLayers {
  int first = 0;
  int last = 0;
  int64_t kept = 0;            ///< tokens, of each KV head
  bool by_head = false;        ///< whether KV heads keep different ones
  std::vector<double> shares;  ///< [token] of the KV heads, how many keep it: 0 to 1
};

std::vector<KeptLayers> kept_layers(const Sequence& sequence);

/// [token] of all layers and KV heads, how many keep it: 0 to 1.
std::vector<double> overall_shares(std::span<const KeptLayers> layers);

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
