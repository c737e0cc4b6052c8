#include "windowkv/generate.h"

#include <algorithm>
#include <limits>

#include "support/clock.h"

namespace windowkv {

std::string_view to_string(StopReason reason) {
  switch (reason) {
    case StopReason::kEnd:
      return "end";
    case StopReason::kLength:
      return "length";
    case StopReason::kStopString:
      return "stop";
    case StopReason::kCancelled:
      return "cancelled";
  }
  return "";
}

Continuation::Continuation(const Vocab* vocab, int n_vocab, std::span<const Token> prompt,
                           GenerateOptions options)
    : vocab_(vocab),
      options_(std::move(options)),
      sampler_(options_.sampling, n_vocab, prompt, vocab),
      stream_(options_.stop, options_.on_text) {
  if (options_.max_tokens <= 0) end(StopReason::kLength);
}

bool Continuation::is_end(Token token) const {
  return std::ranges::find(options_.end_tokens, token) != options_.end_tokens.end() ||
         (vocab_ != nullptr && !options_.ignore_end && vocab_->is_end(token));
}

bool Continuation::may_end() const {
  return std::ssize(out_.tokens) >= options_.min_tokens;
}

bool Continuation::needs_logits() const {
  return options_.on_token || !may_end() || !sampler_.greedy();
}

void Continuation::draw(std::span<const float> logits) {
  std::vector<float> without_ends;
  auto allowed = logits;
  if (!may_end()) {
    without_ends.assign(logits.begin(), logits.end());
    for (size_t i = 0; i < without_ends.size(); ++i)
      if (is_end(static_cast<Token>(i))) without_ends[i] = -std::numeric_limits<float>::infinity();
    allowed = without_ends;
  }
  const auto token = sampler_.sample(allowed);
  if (options_.on_token) options_.on_token(token, logits);
  take(token);
}

void Continuation::take(Token token) {
  out_.tokens.push_back(token);
  if (is_end(token)) return end(StopReason::kEnd);
  const bool spelled = std::ranges::find(options_.spelled, token) != options_.spelled.end();
  if (vocab_ != nullptr && stream_.push(vocab_->piece(token, spelled))) return end(StopReason::kStopString);
  if (std::ssize(out_.tokens) >= options_.max_tokens) end(StopReason::kLength);
}

void Continuation::end(StopReason reason) {
  out_.reason = reason;
  stream_.finish();
  out_.text = stream_.text();
  done_ = true;
}

Generation generate(Engine& engine, const Vocab* vocab, Sequence& sequence, std::span<const float> logits,
                    std::span<const Token> prompt, const GenerateOptions& options) {
  const auto start = Clock::now();
  Continuation continuation(vocab, static_cast<int>(logits.size()), prompt, options);
  auto& out = continuation.generation();
  while (!continuation.done()) {
    if (options.cancelled && options.cancelled()) {
      continuation.end(StopReason::kCancelled);
      break;
    }
    if (out.tokens.empty()) {
      continuation.draw(logits);
      out.first_token_ms = ms_since(start);
      continue;
    }
    const Step step{&sequence, out.tokens.back()};
    const bool on_device = !continuation.needs_logits();
    const auto step_start = Clock::now();
    Token token = 0;
    if (on_device)
      token = engine.decode_greedy(std::span(&step, 1)).front();
    else
      logits = engine.decode(std::span(&step, 1));
    out.decode_ms += ms_since(step_start);
    ++out.decoded;
    if (on_device)
      continuation.take(token);
    else
      continuation.draw(logits);
  }
  return std::move(out);
}

}  // namespace windowkv
