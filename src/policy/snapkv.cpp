// SnapKV (Li et al., arXiv 2404.14469): per KV head, the tokens that the end of the prompt attends to, their
// neighbours pulled in by pooling.
#include <ggml.h>

#include <algorithm>

#include "policy/policies.h"
#include "policy/snapkv_scores.h"
#include "windowkv/head_scores.h"

namespace windowkv {

namespace {

/// The observation window, which is always kept, cut to what the leanest layer may keep.
TokenSelector::Shape observed_shape(const PromptShape& prompt, std::vector<int64_t> budgets,
                                    TokenSelector::Shared shared, int least_percent, int64_t window) {
  const int64_t least = *std::min_element(budgets.begin(), budgets.end());
  window = std::clamp<int64_t>(least, 1, std::min(window, prompt.n));
  return {.budgets = std::move(budgets),
          .recent = window,
          .observation = window,
          .shared = shared,
          .least_percent = least_percent};
}

}  // namespace

SnapKvScored::SnapKvScored(const PromptShape& prompt, std::vector<int64_t> budgets, Shared shared,
                           int least_percent, int64_t window)
    : TokenSelector(prompt, observed_shape(prompt, std::move(budgets), shared, least_percent, window)) {}

ggml_tensor* SnapKvScored::build_scores(ggml_context* ctx, const LayerView& view) const {
  auto* received = build_observed_by_head(ctx, view, candidates());
  auto* pooled = ggml_pool_1d(ctx, received, GGML_OP_POOL_MAX, kSnapKvKernel, 1, kSnapKvKernel / 2);
  return build_mean_over_share(ctx, pooled, view.k->ne[2], view.on_cpu);
}

namespace {

class SnapKvSelector final : public SnapKvScored {
 public:
  SnapKvSelector(const PromptShape& prompt, int64_t budget)
      : SnapKvScored(prompt, flat_budgets(prompt.n_layer, budget)) {}
};

}  // namespace

std::unique_ptr<Policy> make_snapkv(const PolicyOptions& options) {
  return std::make_unique<BudgetedPolicy<SnapKvSelector>>("snapkv", options.budget);
}

}  // namespace windowkv
