#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "windowkv/engine.h"

namespace windowkv {

/// How the next token is drawn; libllama's samplers, in llama.cpp's order: penalties, top-k, top-p, min-p,
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
  uint32_t seed = 0xFFFFFFFFu;  ///< 0xFFFFFFFF: a random one
  std::string grammar;          ///< in GBNF, with the rule `root`: the answer follows it; empty: any answer

  void validate() const;  ///< throws Error
};

struct GenerateOptions {
  int64_t max_tokens = 256;       ///< most tokens to generate
  bool ignore_end = false;        ///< go on past end-of-generation tokens
  std::vector<Token> end_tokens;  ///< end generation beside the model's own; no part of the text
  int64_t min_tokens = 0;         ///< before so many, no token that would end generation is drawn
  std::vector<std::string> stop;  ///< text ends before the first of these
  SamplingOptions sampling;
  /// Receives text as it becomes certain: whole UTF-8 characters, nothing of a stop string.
  std::function<void(std::string_view)> on_text;
  std::function<bool()> cancelled;  ///< asked before each token; true ends the generation
};

enum class StopReason { kEnd, kLength, kStopString, kCancelled };
std::string_view to_string(StopReason reason);

struct Generation {
  std::vector<Token> tokens;  ///< generated ids, an end-of-generation token included
  std::string text;
  StopReason reason = StopReason::kLength;
  int64_t decoded = 0;        ///< tokens that went through decode
  double decode_ms = 0;       ///< time of those
  double first_token_ms = 0;  ///< from the call's start to the first token drawn; prefill not counted
};

/// Continues a prefilled sequence. `logits` are those prefill returned; without a vocabulary there is no
/// text, and generation ends at the token limit.
Generation generate(Engine& engine, const Vocab* vocab, Sequence& sequence, std::span<const float> logits,
                    std::span<const Token> prompt, const GenerateOptions& options);

}  // namespace windowkv
