// LAQ++ (Wang et al., arXiv 2505.20334, Lookahead Q-Cache): SnapKV's choice serves to draft the answer's
// first tokens; their queries, with those of the prompt's last tokens, then choose among the whole prompt, by
// SnapKV's scoring too, and the answer begins anew. Constants are those of the authors' code
// (github.com/noforit/Lookahead_Q-Cache), which hides a few of the prompt's last keys from the queries.
#include "policy/policies.h"
#include "policy/snapkv_scores.h"

namespace windowkv {

namespace {

constexpr int kDraft = 8;
constexpr int64_t kWindow = 8;  // of the second choice; LAQ without ++ has none

template <int64_t window>
class LaqSelector final : public SnapKvScored {
 public:
  LaqSelector(const PromptShape& prompt, int64_t budget)
      : SnapKvScored(prompt, flat_budgets(prompt.n_layer, budget), Shared::kNone, 0, window) {}
  // Once, by a draft.
  bool chooses_again() const override { return false; }
};

class Laq final : public Policy {
 public:
  explicit Laq(const Budget& budget)
      : first_("laq", budget),
        second_(std::make_shared<BudgetedPolicy<LaqSelector<kWindow>>>("laq", budget)) {}
  std::string_view name() const override { return first_.name(); }
  std::unique_ptr<Selector> start(const PromptShape& shape) const override { return first_.start(shape); }
  std::optional<Budget> budget() const override { return first_.budget(); }
  int draft() const override { return kDraft; }
  std::shared_ptr<const Policy> again() const override { return second_; }

 private:
  BudgetedPolicy<LaqSelector<kSnapKvObservation>> first_;
  std::shared_ptr<const Policy> second_;
};

}  // namespace

std::unique_ptr<Policy> make_laq(const PolicyOptions& options) {
  return std::make_unique<Laq>(options.budget);
}

}  // namespace windowkv
