// Random tokens per KV head beside the last ones: the floor that any score must beat. The last tokens stay,
// so that what is measured is the choice and not the loss of the question.
#include <algorithm>
#include <numeric>
#include <random>

#include "policy/policies.h"
#include "windowkv/token_selector.h"

namespace windowkv {

namespace {

class RandomSelector final : public TokenSelector {
 public:
  RandomSelector(const PromptShape& prompt, int64_t budget)
      : TokenSelector(prompt, {.budgets = flat_budgets(prompt.n_layer, budget), .recent = 32}) {}

  // Nothing is scored; the numbers TokenSelector expects from the graph are drawn here.
  KeptTokens choose(int layer, std::span<const int32_t>) override {
    std::vector<int32_t> picked;
    if (drops(layer))
      for (int head = 0; head < prompt().n_head_kv; ++head) draw(layer, head, picked);
    return TokenSelector::choose(layer, picked);
  }
  bool decides(int) const override { return false; }

 protected:
  ggml_tensor* build_scores(ggml_context*, const LayerView&) const override { return nullptr; }

 private:
  /// Distinct candidates, ascending, the same for the same layer, head and length.
  void draw(int layer, int head, std::vector<int32_t>& picked) const {
    std::mt19937_64 engine(static_cast<uint64_t>(prompt().n) * 1'000'003 +
                           static_cast<uint64_t>(layer) * 1009 + static_cast<uint64_t>(head));
    std::vector<int32_t> all(static_cast<size_t>(candidates()));
    std::iota(all.begin(), all.end(), 0);
    const auto count = static_cast<size_t>(chosen(layer));
    for (size_t i = 0; i < count; ++i) std::swap(all[i], all[i + engine() % (all.size() - i)]);
    std::sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count));
    picked.insert(picked.end(), all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count));
  }
};

}  // namespace

std::unique_ptr<Policy> make_random(const PolicyOptions& options) {
  return std::make_unique<BudgetedPolicy<RandomSelector>>("random", options.budget);
}

}  // namespace windowkv
