// PyramidKV (Cai et al., arXiv 2406.02069): SnapKV's scores, with budgets that fall arithmetically from the
// first layer to the last.
#include <algorithm>

#include "policy/policies.h"
#include "policy/snapkv_scores.h"

namespace windowkv {

namespace {

constexpr int64_t kBeta = 20;  // section 4.2: the last layer's share is 1/β

/// Tokens by layer with the mean `budget`: beside the observation window, which every layer keeps, the last
/// layer has rest/β and the first 2·rest − rest/β, at most what the prompt has; what that cap cuts off, the
/// last layers get back.
std::vector<int64_t> pyramid_budgets(const PromptShape& prompt, int64_t budget) {
  const int64_t window = std::min({kSnapKvObservation, budget, prompt.n});
  const int64_t rest = std::max<int64_t>(0, std::min(budget, prompt.n) - window);
  const int64_t layers = prompt.n_layer;
  if (layers == 1) return {window + rest};
  int64_t least = rest / kBeta;
  int64_t most = 2 * rest - least;
  if (most > prompt.n - window) {
    most = prompt.n - window;
    least = 2 * rest - most;
  }
  std::vector<int64_t> budgets;
  for (int64_t i = 0; i < layers; ++i)
    budgets.push_back(window + (most * (layers - 1 - i) + least * i) / (layers - 1));
  return budgets;
}

class PyramidKvSelector final : public SnapKvScored {
 public:
  PyramidKvSelector(const PromptShape& prompt, int64_t budget)
      : SnapKvScored(prompt, pyramid_budgets(prompt, budget)) {}
};

}  // namespace

std::unique_ptr<Policy> make_pyramidkv(const PolicyOptions& options) {
  return std::make_unique<BudgetedPolicy<PyramidKvSelector>>("pyramidkv", options.budget);
}

}  // namespace windowkv
