// H2O (Zhang et al., arXiv 2306.14048): per KV head, half the budget for the most recent tokens, half for the
// "heavy hitters", those that have received the most attention from all queries so far. Decided once, at the
// end of the prompt.
#include <ggml.h>

#include "policy/policies.h"
#include "windowkv/head_scores.h"
#include "windowkv/token_selector.h"

namespace windowkv {

namespace {

class H2oSelector final : public TokenSelector {
 public:
  H2oSelector(const PromptShape& prompt, int64_t budget)
      : TokenSelector(prompt, {.budgets = flat_budgets(prompt.n_layer, budget), .recent = (budget + 1) / 2}) {
  }
  int64_t stride() const override { return drops(0) ? 1 : 0; }

 protected:
  ggml_tensor* build_scores(ggml_context* ctx, const LayerView& view) const override {
    auto* mean = build_mean_over_share(ctx, view.accumulated, view.k->ne[2]);
    return ggml_cont(ctx, ggml_view_2d(ctx, mean, candidates(), mean->ne[1], mean->nb[1], 0));
  }
};

}  // namespace

std::unique_ptr<Policy> make_h2o(const PolicyOptions& options) {
  return std::make_unique<BudgetedPolicy<H2oSelector>>("h2o", options.budget);
}

}  // namespace windowkv
