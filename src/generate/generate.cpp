#include "windowkv/generate.h"

#include <algorithm>
#include <limits>

#include "support/clock.h"
#include "windowkv/sampler.h"
#include "windowkv/text_stream.h"

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
  const auto start = Clock::now();
  Sampler sampler(options.sampling, static_cast<int>(logits.size()), prompt, vocab);
  TextStream stream(options.stop, options.on_text);
  auto ends = [&](Token token) {
    return std::find(options.end_tokens.begin(), options.end_tokens.end(), token) !=
               options.end_tokens.end() ||
           (vocab != nullptr && !options.ignore_end && vocab->is_end(token));
  };
  std::vector<float> without_ends;
  auto mask_ends = [&](std::span<const float> all) -> std::span<const float> {
    without_ends.assign(all.begin(), all.end());
    for (size_t i = 0; i < without_ends.size(); ++i)
      if (ends(static_cast<Token>(i))) without_ends[i] = -std::numeric_limits<float>::infinity();
    return without_ends;
  };
  Generation out;
  while (static_cast<int64_t>(out.tokens.size()) < options.max_tokens) {
    if (options.cancelled && options.cancelled()) {
      out.reason = StopReason::kCancelled;
      break;
    }
    const bool may_end = static_cast<int64_t>(out.tokens.size()) >= options.min_tokens;
    const bool on_device = !out.tokens.empty() && may_end && sampler.greedy();
    Token token = 0;
    if (!out.tokens.empty()) {
      const Step step{&sequence, out.tokens.back()};
      const auto step_start = Clock::now();
      if (on_device)
        token = engine.decode_greedy(std::span(&step, 1)).front();
      else
        logits = engine.decode(std::span(&step, 1));
      out.decode_ms += ms_since(step_start);
      ++out.decoded;
    }
    if (!on_device) token = sampler.sample(may_end ? logits : mask_ends(logits));
    if (out.tokens.empty()) out.first_token_ms = ms_since(start);
    out.tokens.push_back(token);
    if (ends(token)) {
      out.reason = StopReason::kEnd;
      break;
    }
    if (vocab == nullptr) continue;
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
