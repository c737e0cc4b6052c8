// CriticalKV (Feng et al., arXiv 2502.03805, Algorithm 1) over SnapKV's scores: half of the budget by
// attention, the rest by attention times what the token's value can change, ‖W_O·v‖₁.
#include <ggml.h>

#include "policy/policies.h"
#include "policy/snapkv_scores.h"
#include "policy/top_scores.h"
#include "policy/value_norms.h"

namespace windowkv {

namespace {

constexpr int kFirstStagePercent = 50;  // α = 0.5
constexpr float kEpsilon = 1e-4f;       // so that attention of 0 leaves an order

class CriticalKvSelector final : public SnapKvScored {
 public:
  CriticalKvSelector(const PromptShape& prompt, int64_t budget)
      : SnapKvScored(prompt, flat_budgets(prompt.n_layer, budget)) {}

  bool chooses_again() const override { return false; }

 protected:
  ggml_tensor* build_scores(ggml_context* ctx, const LayerView& view) const override {
    auto* attention = SnapKvScored::build_scores(ctx, view);
    auto* weighted = ggml_mul(ctx, ggml_scale_bias(ctx, attention, 1.0f, kEpsilon),
                              build_value_norms(ctx, view, candidates()));
    // The observation window is part of the first half.
    const int64_t first = (chosen(view.layer) + recent()) * kFirstStagePercent / 100 - recent();
    return build_raised(ctx, weighted, attention, first);
  }
};

}  // namespace

std::unique_ptr<Policy> make_criticalkv(const PolicyOptions& options) {
  return std::make_unique<BudgetedPolicy<CriticalKvSelector>>("criticalkv", options.budget);
}

}  // namespace windowkv
