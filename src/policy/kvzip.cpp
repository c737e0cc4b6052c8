// KVzip (Kim et al., arXiv 2505.23416): the model repeats the prompt, part by part, and a token is worth the
// most attention that it receives meanwhile. All KV heads of all layers compete for the budget. It asks
// nothing of the prompt's end, so that what is kept serves any question. Details are those of NVIDIA's
// kvpress.
#include <ggml.h>

#include "policy/policies.h"
#include "windowkv/token_selector.h"

namespace windowkv {

namespace {

constexpr Replay kRepeat{
    .part = 2048,
    .first = "\n\nRepeat the previous context exactly.",
    .later = "\n\nRepeat the part of the previous context exactly, starting with",
    .quoted = 8,
};

class KvZipSelector final : public TokenSelector {
 public:
  KvZipSelector(const PromptShape& prompt, int64_t budget)
      : TokenSelector(prompt, {.budgets = flat_budgets(prompt.n_layer, budget),
                               .sinks = kReplaySinks,
                               .shared = Shared::kAll}) {}
  Replay replay() const override { return drops(0) ? kRepeat : Replay{}; }

 protected:
  ggml_tensor* build_scores(ggml_context* ctx, const LayerView& view) const override {
    auto* all = view.replayed;
    return ggml_cont(ctx, ggml_view_2d(ctx, all, candidates(), all->ne[1], all->nb[1],
                                       static_cast<size_t>(sinks()) * all->nb[0]));
  }
};

}  // namespace

std::unique_ptr<Policy> make_kvzip(const PolicyOptions& options) {
  return std::make_unique<BudgetedPolicy<KvZipSelector>>("kvzip", options.budget);
}

}  // namespace windowkv
