#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "windowkv/policy.h"

namespace windowkv {

/// The common part of policies whose scores are of single tokens: the first `sinks` and the last `recent`
/// tokens always, and of those between ("candidates") the ones with the highest scores. A policy gives the
/// scores. Layers decide by themselves unless the policy says otherwise; those settled together add up the
/// scores of the ones that decide.
class TokenSelector : public Selector {
 public:
  /// Whose scores compete for the budget. Where it is shared, scores are by KV head, and heads keep different
  /// numbers of tokens: so many in all as if each had the budget.
  enum class Shared {
    kNone,   ///< of each list, for its layer's budget
    kHeads,  ///< of a layer's KV heads
    kAll,  ///< of all KV heads of all layers, which wait for the last one in full; layers' budgets are equal
  };

  struct Shape {
    std::vector<int64_t> budgets;  ///< kept tokens by layer; cut to n
    int64_t sinks = 0;             ///< sinks and recent are cut to the smallest budget
    int64_t recent = 0;
    int64_t observation = 0;  ///< rows of Q that the scores need; cut to n
    Shared shared = Shared::kNone;
    /// Where the budget is shared: what every KV head keeps at least of a layer's budget, in percent (Ada-KV,
    /// arXiv 2407.11550, has 20).
    int least_percent = 0;
  };

  TokenSelector(const PromptShape& prompt, Shape shape);

  int64_t observation() const override { return shape_.observation; }
  int64_t capacity(int layer) const override;
  bool decides(int layer) const override { return drops(layer); }
  bool heads_differ() const override { return shape_.shared != Shared::kNone; }
  int settled_at(int layer) const override {
    return shape_.shared == Shared::kAll ? prompt_.n_layer - 1 : layer;
  }
  ggml_tensor* build(ggml_context* ctx, std::span<const LayerView> views) const override;
  KeptTokens choose(int layer, std::span<const int32_t> picked) override;
  void restart() override { again_ = true; }
  std::vector<GroupSelection> groups() const override { return groups_; }

 protected:
  /// A layer's scores of the candidates, [candidates(), 1] for all KV heads or [candidates(), n_head_kv] F32.
  virtual ggml_tensor* build_scores(ggml_context* ctx, const LayerView& view) const = 0;

  /// A KV head's rows of all candidates, of K or V as LayerView has them: [d_head, candidates()] F32.
  ggml_tensor* build_candidates(ggml_context* ctx, ggml_tensor* all, int64_t head) const;

  const PromptShape& prompt() const { return prompt_; }
  int64_t sinks() const { return shape_.sinks; }
  int64_t recent() const { return shape_.recent; }
  int64_t candidates() const { return prompt_.n - shape_.sinks - shape_.recent; }
  /// Whether there is anything to choose in `layer`.
  bool drops(int layer) const { return chosen(layer) > 0 && chosen(layer) < candidates(); }
  /// Candidates that `layer` keeps, on average over its KV heads.
  int64_t chosen(int layer) const {
    return shape_.budgets[static_cast<size_t>(layer)] - shape_.sinks - shape_.recent;
  }

 private:
  /// Candidates that each KV head keeps where the budget is shared, whatever the other heads' scores.
  int64_t least(int layer) const;
  /// The candidates among picked ones of `layer`, by list.
  KeptTokens picked_of(int layer, std::span<const int32_t> picked) const;
  /// Adds what the layer keeps to groups().
  void tell(int layer, const KeptTokens& kept);

  PromptShape prompt_;
  Shape shape_;
  KeptTokens kept_;     ///< of the layers last settled
  bool again_ = false;  ///< after restart(): choices are no longer added to groups()
  std::vector<GroupSelection> groups_;
};

/// A policy whose only setting is the budget; S is its selector, made from the prompt and tokens a layer.
template <class S>
class BudgetedPolicy final : public Policy {
 public:
  /// `name` must outlive the policy.
  BudgetedPolicy(std::string_view name, const Budget& budget) : name_(name), budget_(budget) {}
  std::string_view name() const override { return name_; }
  std::unique_ptr<Selector> start(const PromptShape& shape) const override {
    return std::make_unique<S>(shape, budget_.resolve(shape.n));
  }
  std::optional<Budget> budget() const override { return budget_; }

 private:
  std::string_view name_;
  Budget budget_;
};

/// A policy made of one function: what each token is worth.
struct TokenPolicyOptions {
  std::string name;
  Budget budget;
  int64_t sinks = 0;                     ///< first tokens of the prompt that are always kept
  int64_t recent = 0;                    ///< last tokens of the prompt that are always kept
  int64_t observation = 1;               ///< last queries of the prompt that `scores` sees
  std::string_view against_recall = {};  ///< Selector::against_recall, where it chooses again
  /// Adds the scores of the layer's first `keys` tokens to the graph: [keys, 1] F32 for all KV heads, or
  /// [keys, n_head_kv] for each its own. The highest are kept.
  std::function<ggml_tensor*(ggml_context* ctx, const LayerView& view, int64_t keys)> scores;
};
std::unique_ptr<Policy> make_token_policy(TokenPolicyOptions options);

/// `budget` tokens in every layer.
std::vector<int64_t> flat_budgets(int n_layer, int64_t budget);

}  // namespace windowkv
