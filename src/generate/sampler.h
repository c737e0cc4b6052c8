#pragma once

#include <llama.h>

#include <memory>
#include <span>
#include <vector>

#include "windowkv/generate.h"

namespace windowkv {

/// Draws tokens from logits with libllama's samplers.
class Sampler {
 public:
  /// `prompt` fills the penalties' memory.
  Sampler(const SamplingOptions& options, int n_vocab, std::span<const Token> prompt);

  Token sample(std::span<const float> logits);
  /// Whether sample() is the most probable token, whatever came before.
  bool greedy() const { return !chain_; }

 private:
  struct Free {
    void operator()(llama_sampler* s) const { llama_sampler_free(s); }
  };
  std::unique_ptr<llama_sampler, Free> chain_;  // null: greedy without penalties
  std::vector<llama_token_data> candidates_;
};

}  // namespace windowkv
