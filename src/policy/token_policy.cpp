#include <ggml.h>

#include "windowkv/token_selector.h"

namespace windowkv {

namespace {

class ScoredSelector final : public TokenSelector {
 public:
  ScoredSelector(const PromptShape& prompt, const TokenPolicyOptions& options)
      : TokenSelector(prompt, {.budgets = flat_budgets(prompt.n_layer, options.budget.resolve(prompt.n)),
                               .sinks = options.sinks,
                               .recent = options.recent,
                               .observation = options.observation}),
        scores_(options.scores),
        against_recall_(options.against_recall) {}

  std::string_view against_recall() const override {
    return chooses_again() ? against_recall_ : Selector::against_recall();
  }

 protected:
  ggml_tensor* build_scores(ggml_context* ctx, const LayerView& view) const override {
    auto* scores = scores_(ctx, view, sinks() + candidates());
    if (sinks() == 0) return scores;
    return ggml_cont(ctx, ggml_view_2d(ctx, scores, candidates(), scores->ne[1], scores->nb[1],
                                       static_cast<size_t>(sinks()) * scores->nb[0]));
  }

 private:
  decltype(TokenPolicyOptions::scores) scores_;  // its own: it may outlive the policy
  std::string_view against_recall_;
};

class TokenPolicy final : public Policy {
 public:
  explicit TokenPolicy(TokenPolicyOptions options) : options_(std::move(options)) {}
  std::string_view name() const override { return options_.name; }
  std::unique_ptr<Selector> start(const PromptShape& shape) const override {
    return std::make_unique<ScoredSelector>(shape, options_);
  }
  std::optional<Budget> budget() const override { return options_.budget; }

 private:
  TokenPolicyOptions options_;
};

}  // namespace

std::unique_ptr<Policy> make_token_policy(TokenPolicyOptions options) {
  return std::make_unique<TokenPolicy>(std::move(options));
}

}  // namespace windowkv
