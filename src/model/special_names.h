#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "windowkv/vocab.h"

namespace windowkv {

/// The names of a vocabulary's control tokens, such as <|im_start|>, for finding them in text.
class SpecialNames {
 public:
  explicit SpecialNames(const llama_vocab* vocab);

  struct Name {
    std::string_view text;  ///< the vocabulary's
    Token token = 0;
  };
  /// The longest name that the text has at `at`; null where it has none.
  const Name* at(std::string_view text, size_t at) const;

 private:
  std::array<std::vector<Name>, 256> by_first_byte_;  ///< longest first
};

}  // namespace windowkv
