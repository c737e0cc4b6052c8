#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "windowkv/vocab.h"

namespace windowkv {

/// How the next token is sampled; libllama's samplers, in llama.cpp's order: penalties, top-k, top-p, min-p,
/// temperature.
struct SamplingOptions {
  float temperature = 0.0f;  ///< 0: the most probable token
  int top_k = 40;            ///< 0 and −1: off
  float top_p = 0.95f;       ///< 1: off
  float min_p = 0.05f;       ///< 0: off
  int penalty_last_n = 64;   ///< 0: off; −1: all
  float repeat_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  uint32_t seed = 0xFFFFFFFFu;  ///< 0xFFFFFFFF: random
  std::string grammar;  ///< in GBNF, with a rule `root`, which constrains the answer; empty: no constraint
  std::vector<std::pair<Token, float>> logit_bias;  ///< added to the logits of these tokens first of all

  void validate() const;  ///< throws Error
};

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
