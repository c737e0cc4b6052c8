#include "eval/turns.h"

#include "support/clock.h"

namespace windowkv::eval {

namespace {

struct Prefilled {
  Sequence sequence;
  std::vector<float> logits;
  double ms = 0;
};

}  // namespace

std::vector<TurnResult> run_turns(Engine& engine, const Model& model,
                                  std::span<const std::vector<Token>> prompts, const Policy& policy,
                                  const TurnsOptions& options) {
  // In prefills of whole prompts; those from a store take a hundredth.
  const auto total = static_cast<int64_t>(options.stores.size() + prompts.size() - 1);
  int64_t done = 0;
  const auto prefill = [&](const std::vector<Token>& prompt, PrefixStore* store, bool whole) {
    PrefillOptions prefill_options;
    prefill_options.reserve = options.max_tokens;
    prefill_options.store = store;
    prefill_options.cancelled = options.cancelled;
    if (whole && options.progress)
      prefill_options.progress = [&](int64_t step, int64_t steps) {
        options.progress(done * 1000 + 1000 * step / steps, total * 1000);
      };
    Prefilled out;
    const auto start = Clock::now();
    const auto logits = engine.prefill(out.sequence, prompt, policy, prefill_options);
    out.ms = ms_since(start);
    out.logits.assign(logits.begin(), logits.end());
    done += whole ? 1 : 0;
    return out;
  };

  std::vector<PrefixStore> stores;
  for (const auto type : options.stores) {
    auto& store = stores.emplace_back(model, PrefixStoreOptions{.types = {type, type}});
    prefill(prompts.front(), &store, /*whole=*/true);
  }
  std::vector<TurnResult> results;
  for (size_t i = 1; i < prompts.size(); ++i) {
    auto fresh = prefill(prompts[i], nullptr, /*whole=*/true);
    const auto reference =
        reference_answer(engine, model.find_vocab(), fresh.sequence, fresh.logits, options.max_tokens);
    for (size_t s = 0; s < stores.size(); ++s) {
      auto stored = prefill(prompts[i], &stores[s], /*whole=*/false);
      results.push_back({options.stores[s], i + 1, stored.sequence.prompt_tokens,
                         stored.sequence.reused_tokens, stored.ms, fresh.ms,
                         measure_fidelity(engine, stored.sequence, reference)});
    }
  }
  return results;
}

}  // namespace windowkv::eval
