// TOVA (Oren et al., arXiv 2401.06104): the tokens that the last query attends to most, the mean over all
// heads of the layer. Decided once, at the end of the prompt.
#include <ggml.h>

#include "policy/head_scores.h"
#include "policy/policies.h"
#include "policy/token_selector.h"

namespace windowkv {

namespace {

class TovaSelector final : public TokenSelector {
 public:
  TovaSelector(const PromptShape& prompt, int64_t budget)
      : TokenSelector(prompt,
                      {.budgets = flat_budgets(prompt.n_layer, budget), .recent = 1, .observation = 1}) {}

 protected:
  ggml_tensor* build_scores(ggml_context* ctx, const LayerView& view) const override {
    return build_mean_over_share(ctx, build_observed_by_head(ctx, view, candidates()), 1);
  }
};

class Tova final : public BudgetedPolicy<TovaSelector> {
 public:
  using BudgetedPolicy::BudgetedPolicy;
  std::string_view name() const override { return "tova"; }
};

}  // namespace

std::unique_ptr<Policy> make_tova(const PolicyOptions& options) {
  return std::make_unique<Tova>(options.budget);
}

}  // namespace windowkv
