// StreamingLLM (Xiao et al., arXiv 2309.17453): the first four tokens, which attention sinks into, and the
// most recent ones, in every layer.
#include <algorithm>

#include "policy/policies.h"
#include "windowkv/token_selector.h"

namespace windowkv {

namespace {

constexpr int64_t kSinks = 4;  // section 3.2

class StreamingLlmSelector final : public TokenSelector {
 public:
  StreamingLlmSelector(const PromptShape& prompt, int64_t budget)
      : TokenSelector(prompt, {.budgets = flat_budgets(prompt.n_layer, budget),
                               .sinks = std::min(kSinks, budget / 2),
                               .recent = budget - std::min(kSinks, budget / 2)}) {}

 protected:
  // Never asked: sinks and recent tokens are the whole budget.
  ggml_tensor* build_scores(ggml_context*, const LayerView&) const override { return nullptr; }
};

}  // namespace

std::unique_ptr<Policy> make_streaming_llm(const PolicyOptions& options) {
  return std::make_unique<BudgetedPolicy<StreamingLlmSelector>>("streaming-llm", options.budget);
}

}  // namespace windowkv
