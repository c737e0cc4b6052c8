// Ada-KV (Feng et al., arXiv 2407.11550): SnapKV's scores, for which all KV heads of a layer compete, so that
// heads whose attention is spread get more of the layer's budget.
#include "policy/policies.h"
#include "policy/snapkv_scores.h"

namespace windowkv {

namespace {

class AdaKvSelector final : public SnapKvScored {
 public:
  AdaKvSelector(const PromptShape& prompt, int64_t budget)
      : SnapKvScored(prompt, flat_budgets(prompt.n_layer, budget), Shared::kHeads, kAdaKvLeastPercent) {}
};

}  // namespace

std::unique_ptr<Policy> make_adakv(const PolicyOptions& options) {
  return std::make_unique<BudgetedPolicy<AdaKvSelector>>("adakv", options.budget);
}

}  // namespace windowkv
