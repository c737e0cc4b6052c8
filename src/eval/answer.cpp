#include "eval/answer.h"

#include "windowkv/error.h"

namespace windowkv::eval {

Answer answer(Engine& engine, const Model& model, std::span<const Token> prompt, const Policy& policy,
              const GenerateOptions& options) {
  const Policy* const policies[] = {&policy};
  Answer only;
  answer_each(engine, model, prompt, policies, options, {},
              [&](size_t, Answer answer) { only = std::move(answer); });
  return only;
}

void answer_each(Engine& engine, const Model& model, std::span<const Token> prompt,
                 std::span<const Policy* const> policies, const GenerateOptions& options,
                 const std::function<void(int64_t, int64_t)>& prefilling,
                 const std::function<void(size_t, Answer)>& answered) {
  PrefillOptions prefill;
  prefill.reserve = options.max_tokens;
  prefill.cancelled = options.cancelled;
  prefill.progress = prefilling;
  std::vector<Sequence> sequences(policies.size());
  const auto span = engine.prefill(sequences, prompt, policies, prefill);
  const std::vector<float> logits(span.begin(), span.end());  // decoding the first sequence overwrites them
  for (size_t i = 0; i < sequences.size(); ++i) {
    auto& sequence = sequences[i];
    auto out = generate(engine, model.find_vocab(), sequence, logits, prompt, options);
    if (out.reason == StopReason::kCancelled) throw Cancelled();
    answered(i, {std::move(out.text), sequence.prompt_tokens, static_cast<int64_t>(out.tokens.size()),
                 sequence.bytes, sequence.timing.total, sequences.size(), out.decode_ms});
  }
}

std::vector<Token> truncate_middle(std::vector<Token> tokens, int64_t limit) {
  const auto n = static_cast<int64_t>(tokens.size());
  if (n <= limit) return tokens;
  const int64_t half = limit / 2;
  tokens.erase(tokens.begin() + half, tokens.end() - half);
  return tokens;
}

}  // namespace windowkv::eval
