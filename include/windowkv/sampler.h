#pragma once

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
  ~Sampler();
  Sampler(Sampler&&) noexcept;
  Sampler& operator=(Sampler&&) noexcept;

  /// Throws Error where the grammar leaves no token.
  Token sample(std::span<const float> logits);
  /// Whether sample() is the most probable token, whatever came before.
  bool greedy() const;

 private:
  struct Chains;
  std::unique_ptr<Chains> chains_;
};

}  // namespace windowkv
