#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "windowkv/engine.h"
#include "windowkv/sampler.h"
#include "windowkv/text_stream.h"

namespace windowkv {

struct GenerateOptions {
  int64_t max_tokens = 256;       ///< maximum number of tokens to generate
  bool ignore_end = false;        ///< continue past end-of-generation tokens
  std::vector<Token> end_tokens;  ///< end generation like the model's own; not part of the text
  std::vector<Token> spelled;     ///< control tokens whose names are part of the text; others are not
  int64_t min_tokens = 0;         ///< no token that would end generation is sampled before this many
  std::vector<std::string> stop;  ///< the text ends before the first of these
  SamplingOptions sampling;
  /// Receives text once it is final: whole UTF-8 characters, never part of a stop string.
  std::function<void(std::string_view)> on_text;
  /// Receives each token with the logits [n_vocab] it was drawn from, before its text.
  std::function<void(Token token, std::span<const float> logits)> on_token;
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

/// A generation token by token, for callers that decode several sequences at once. Decoding is theirs: as
/// long as it is not done, they decode generation().tokens.back() and hand over what came of it.
class Continuation {
 public:
  /// `prompt` fills the penalties' memory. Without a vocabulary there is no text, and generation ends at the
  /// token limit. Throws Error for options that cannot be.
  Continuation(const Vocab* vocab, int n_vocab, std::span<const Token> prompt, GenerateOptions options);

  /// Whether the next token can only be drawn from logits; else it is the most probable one, which
  /// Engine::decode_greedy() finds.
  bool needs_logits() const;
  /// Draws the next token.
  void draw(std::span<const float> logits);
  /// Takes the next token as drawn.
  void take(Token token);
  /// Ends the generation.
  void end(StopReason reason);
  /// Whether it has ended, and the text is whole.
  bool done() const { return done_; }

  Generation& generation() { return out_; }

 private:
  bool is_end(Token token) const;
  bool may_end() const;

  const Vocab* vocab_;
  GenerateOptions options_;
  Sampler sampler_;
  TextStream stream_;
  Generation out_;
  bool done_ = false;
};

/// Continues a prefilled sequence. `logits` are the ones prefill returned. Without a vocabulary there is no
/// text, and generation ends at the token limit.
Generation generate(Engine& engine, const Vocab* vocab, Sequence& sequence, std::span<const float> logits,
                    std::span<const Token> prompt, const GenerateOptions& options);

}  // namespace windowkv
