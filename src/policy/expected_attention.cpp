// Expected attention (Devoto et al., arXiv 2510.00636): future queries are taken to be distributed as the
// prompt's own, as a Gaussian before RoPE, rotated to the positions that follow; a token is worth the
// attention that it may expect of them times the norm of its value. It asks nothing of the prompt's end, so
// that what is kept serves any question.
#include <ggml.h>

#include <cmath>

#include "policy/policies.h"
#include "windowkv/head_scores.h"
#include "windowkv/token_selector.h"

namespace windowkv {

namespace {

class ExpectedAttentionSelector final : public TokenSelector {
 public:
  ExpectedAttentionSelector(const PromptShape& prompt, int64_t budget)
      : TokenSelector(prompt, {.budgets = flat_budgets(prompt.n_layer, budget), .sinks = kMomentSinks}) {}
  std::vector<TokenRange> ahead() const override {
    return drops(0) ? std::vector<TokenRange>{{0, 512}} : std::vector<TokenRange>{};
  }

 protected:
  ggml_tensor* build_scores(ggml_context* ctx, const LayerView& view) const override {
    const int64_t d = view.k->ne[0];
    const int64_t share = view.moments->ne[2] / view.k->ne[2];
    auto* rows = ggml_cont(ctx, ggml_transpose(ctx, view.rotation));
    ggml_tensor* scores = nullptr;
    for (int64_t head = 0; head < view.moments->ne[2]; ++head) {
      auto* keys = build_candidates(ctx, view.k, head / share);
      auto part = [&](int64_t first, int64_t count) {
        return ggml_scale(ctx,
                          ggml_cont(ctx, ggml_view_2d(ctx, view.moments, d, count, view.moments->nb[1],
                                                      static_cast<size_t>(head) * view.moments->nb[2] +
                                                          static_cast<size_t>(first) * view.moments->nb[1])),
                          1.0f / static_cast<float>(view.moment_queries));
      };
      auto* mean = part(d, 1);
      auto* covariance = ggml_sub(ctx, part(0, d), ggml_out_prod(ctx, mean, mean));
      auto turned = [&](ggml_tensor* x) { return ggml_mul_mat(ctx, rows, x); };
      auto* ahead = turned(mean);
      covariance = turned(ggml_cont(ctx, ggml_transpose(ctx, turned(covariance))));
      // E[exp(q·k·scale)] = exp(scale·μ·k + scale²/2·kᵀΣk).
      auto* linear = ggml_mul_mat(ctx, keys, ahead);
      auto* square = ggml_sum_rows(ctx, ggml_mul(ctx, keys, ggml_mul_mat(ctx, covariance, keys)));
      auto* expected = ggml_add(
          ctx, ggml_scale(ctx, linear, view.scale),
          ggml_scale(ctx, ggml_reshape_2d(ctx, square, candidates(), 1), view.scale * view.scale / 2));
      auto* attention = ggml_soft_max(ctx, expected);
      scores = scores != nullptr ? ggml_concat(ctx, scores, attention, 1) : attention;
    }
    scores = build_mean_over_share(ctx, scores, view.k->ne[2], view.on_cpu);
    ggml_tensor* norms = nullptr;
    for (int64_t head = 0; head < view.v->ne[2]; ++head) {
      auto* values = build_candidates(ctx, view.v, head);
      auto* norm = ggml_sqrt(ctx, ggml_sum_rows(ctx, ggml_sqr(ctx, values)));
      norm = ggml_reshape_2d(ctx, norm, candidates(), 1);
      norms = norms != nullptr ? ggml_concat(ctx, norms, norm, 1) : norm;
    }
    return ggml_mul(ctx, scores, norms);
  }
};

}  // namespace

std::unique_ptr<Policy> make_expected_attention(const PolicyOptions& options) {
  return std::make_unique<BudgetedPolicy<ExpectedAttentionSelector>>("expected-attention", options.budget);
}

}  // namespace windowkv
