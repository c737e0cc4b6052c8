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
  /// `prompt` fills the penalties' memory. `vocab` may be null where there is no grammar. Throws Error for
  /// options that cannot be.
  Sampler(const SamplingOptions& options, int n_vocab, std::span<const Token> prompt,
          const Vocab* vocab = nullptr);

  /// Throws Error where the grammar leaves no token.
  Token sample(std::span<const float> logits);
  /// Whether sample() is the most probable token, whatever came before.
  bool greedy() const { return !chain_ && !grammar_; }

 private:
  struct Free {
    void operator()(llama_sampler* s) const { llama_sampler_free(s); }
  };
  using Owned = std::unique_ptr<llama_sampler, Free>;

  void fill_candidates(std::span<const float> logits);
  Token draw();
  bool allowed(Token token) const;

  Owned chain_;    // null: greedy without penalties
  Owned grammar_;  // null: any text
  std::vector<llama_token_data> candidates_;
};

}  // namespace windowkv
