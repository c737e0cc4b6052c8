#include "windowkv/generate.h"

#include <chrono>

#include "generate/sampler.h"
#include "generate/text_stream.h"

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

Generation generate(Engine& engine, const Vocab* vocab, Sequence& sequence, std::span<const float> logits,
                    std::span<const Token> prompt, const GenerateOptions& options) {
  using Clock = std::chrono::steady_clock;
  auto ms = [](Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); };
  const auto start = Clock::now();
  Sampler sampler(options.sampling, static_cast<int>(logits.size()), prompt);
  TextStream stream(options.stop, options.on_text);
  Generation out;
  while (static_cast<int64_t>(out.tokens.size()) < options.max_tokens) {
    if (options.cancelled && options.cancelled()) {
      out.reason = StopReason::kCancelled;
      break;
    }
    Token token = 0;
    if (out.tokens.empty()) {
      token = sampler.sample(logits);
      out.first_token_ms = ms(Clock::now() - start);
    } else {
      const Step step{&sequence, out.tokens.back()};
      const auto step_start = Clock::now();
      if (sampler.greedy())
        token = engine.decode_greedy(std::span(&step, 1)).front();
      else
        logits = engine.decode(std::span(&step, 1));
      out.decode_ms += ms(Clock::now() - step_start);
      ++out.decoded;
      if (!sampler.greedy()) token = sampler.sample(logits);
    }
    out.tokens.push_back(token);
    if (vocab == nullptr) continue;
    if (!options.ignore_end && vocab->is_end(token)) {
      out.reason = StopReason::kEnd;
      break;
    }
    if (stream.push(vocab->piece(token))) {
      out.reason = StopReason::kStopString;
      break;
    }
  }
  stream.finish();
  out.text = stream.text();
  return out;
}

}  // namespace windowkv
