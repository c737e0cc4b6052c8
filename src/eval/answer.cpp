#include "eval/answer.h"

#include <algorithm>
#include <optional>

#include "windowkv/error.h"

namespace windowkv::eval {

SharedPrefill prefill_shared(Engine& engine, const Model& model, std::span<const Token> prompt,
                             std::span<const std::unique_ptr<Policy>> policies,
                             const GenerateOptions& generation,
                             const std::function<void(int64_t, int64_t)>& progress, KvTypes store_types) {
  std::vector<const Policy*> pointers;
  for (const auto& policy : policies) pointers.push_back(policy.get());
  PrefillOptions options;
  options.reserve = generation.max_tokens;
  options.cancelled = generation.cancelled;
  options.progress = progress;
  std::optional<PrefixStore> store;  // what sequences need of it they share
  if (std::ranges::any_of(policies, [](const auto& policy) { return policy->recall() > 0; }))
    options.store = &store.emplace(model, PrefixStoreOptions{.types = store_types, .snapshots = 0});
  SharedPrefill out;
  out.sequences.resize(policies.size());
  const auto logits = engine.prefill(out.sequences, prompt, pointers, options);
  out.logits.assign(logits.begin(), logits.end());  // decoding overwrites the engine's
  return out;
}

Answer answer(Engine& engine, const Model& model, std::span<const Token> prompt, SharedPrefill& prefill,
              size_t policy, const GenerateOptions& generation) {
  auto& sequence = prefill.sequences[policy];
  auto out = generate(engine, model.find_vocab(), sequence, prefill.logits, prompt, generation);
  if (out.reason == StopReason::kCancelled) throw Cancelled();
  const auto generated = static_cast<int64_t>(out.tokens.size());
  return {std::move(out.text), std::move(out.tokens), sequence.prompt_tokens,   generated,
          sequence.bytes,      sequence.timing.total, prefill.sequences.size(), out.decode_ms};
}

std::vector<Token> truncate_middle(std::vector<Token> tokens, int64_t limit) {
  const auto n = static_cast<int64_t>(tokens.size());
  if (n <= limit) return tokens;
  const int64_t half = limit / 2;
  tokens.erase(tokens.begin() + half, tokens.end() - half);
  return tokens;
}

}  // namespace windowkv::eval
