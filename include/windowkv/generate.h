#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "windowkv/engine.h"

namespace windowkv {

/// How the next token is sampled; libllama's samplers, in llama.cpp's order: penalties, top-k, top-p, min-p,
/// temperature.
struct SamplingOptions {
  float temperature = 0.0f;  ///< 0: the most probable token
  int top_k = 40;            ///< 0: off
  float top_p = 0.95f;       ///< 1: off
  float min_p = 0.05f;       ///< 0: off
  int penalty_last_n = 64;   ///< 0: off
  float repeat_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  uint32_t seed = 0xFFFFFFFFu;  ///< 0xFFFFFFFF: random
  std::string grammar;  ///< in GBNF, with a rule `root`, which constrains the answer; empty: no constraint

  void validate() const;  ///< throws Error
};

struct GenerateOptions {
  int64_t max_tokens = 256;       ///< maximum number of tokens to generate
  bool ignore_end = false;        ///< continue past end-of-generation tokens
  std::vector<Token> end_tokens;  ///< end generation like the model's own; not part of the text
  int64_t min_tokens = 0;         ///< no token that would end generation is sampled before this many
  std::vector<std::string> stop;  ///< the text ends before the first of these
  SamplingOptions sampling;
  /// Receives text once it is final: whole UTF-8 characters, never part of a stop string.
  std::function<void(std::string_view)> on_text;
  std::function<bool()> cancelled;  ///< called before each token; true ends the generation
};

enum class StopReason { kEnd, kLength, kStopString, kCancelled };
std::string_view to_string(StopReason reason);

struct Generation {
  std::vector<Token> tokens;  ///< generated ids, including an end-of-generation token
  std::string text;
  StopReason reason = StopReason::kLength;
  int64_t decoded = 0;        ///< tokens that were decoded
  double decode_ms = 0;       ///< time that took
  double first_token_ms = 0;  ///< from the start of the call to the first sampled token; excludes prefill
};

/// Continues a prefilled sequence. `logits` are the ones prefill returned. Without a vocabulary there is no
/// text, and generation ends at the token limit.
Generation generate(Engine& engine, const Vocab* vocab, Sequence& sequence, std::span<const float> logits,
                    std::span<const Token> prompt, const GenerateOptions& options);

}  // namespace windowkv
