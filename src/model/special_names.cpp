#include "model/special_names.h"

#include <llama.h>

#include <algorithm>

namespace windowkv {

SpecialNames::SpecialNames(const llama_vocab* vocab) {
  // What libllama reads as a special token only where it is told to.
  constexpr int kControl = LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN;
  for (Token token = 0; token < llama_vocab_n_tokens(vocab); ++token)
    if ((llama_vocab_get_attr(vocab, token) & kControl) != 0)
      if (const std::string_view text = llama_vocab_get_text(vocab, token); !text.empty())
        by_first_byte_[static_cast<unsigned char>(text.front())].push_back({text, token});
  for (auto& names : by_first_byte_)
    std::ranges::sort(names, [](const Name& a, const Name& b) { return a.text.size() > b.text.size(); });
}

const SpecialNames::Name* SpecialNames::at(std::string_view text, size_t at) const {
  const auto rest = text.substr(at);
  if (rest.empty()) return nullptr;
  for (const auto& name : by_first_byte_[static_cast<unsigned char>(rest.front())])
    if (rest.starts_with(name.text)) return &name;
  return nullptr;
}

}  // namespace windowkv
