// TriAttention (Mao et al., arXiv 2604.04921): queries before RoPE lie close around a center, whatever the
// text, so that the center, rotated to positions that are still to come, tells which keys they will attend
// to. Where queries spread, the length of a key counts in its stead. The paper measures centers on other text
// beforehand; here they are those of the prompt's own queries, and behind it of the newest ones.
#include <ggml.h>

#include <algorithm>

#include "policy/pair_lengths.h"
#include "policy/policies.h"
#include "windowkv/head_scores.h"
#include "windowkv/token_selector.h"

namespace windowkv {

namespace {

/// Queries at the end of what is chosen among, of which centers are taken behind the prompt.
constexpr int64_t kNewest = 128;
/// The positions ahead are 1, 2, 4, ... up to this.
constexpr int64_t kFarthest = 65536;

class TriAttentionSelector final : public TokenSelector {
 public:
  TriAttentionSelector(const PromptShape& prompt, int64_t budget)
      : TokenSelector(prompt, {.budgets = flat_budgets(prompt.n_layer, budget),
                               .observation = std::clamp<int64_t>(prompt.n - budget, 0, kNewest)}) {}

  std::vector<TokenRange> ahead() const override {
    std::vector<TokenRange> positions;
    for (int64_t i = 1; drops(0) && i <= kFarthest; i *= 2) positions.emplace_back(i, i + 1);
    return positions;
  }
  bool chooses_again() const override { return true; }
  std::string_view against_recall() const override { return "chooses alike whatever is asked"; }

 protected:
  ggml_tensor* build_scores(ggml_context* ctx, const LayerView& view) const override {
    const int64_t heads_kv = view.k->ne[2];
    const int64_t share = view.moments->ne[2] / heads_kv;
    auto* rotation = ggml_cont(ctx, ggml_transpose(ctx, view.rotation));
    ggml_tensor* scores = nullptr;
    for (int64_t head = 0; head < heads_kv; ++head) {
      auto* keys = build_candidates(ctx, view.k, head);
      auto* center = build_mean(ctx, view, view.k->ne[0], keys->ne[0], head * share, share);
      auto* ahead = ggml_mul_mat(ctx, keys, ggml_mul_mat(ctx, rotation, center));
      auto* lengths = build_pair_lengths(ctx, keys, view.rope_pairs);
      auto* mean_lengths = build_mean(ctx, view, view.k->ne[0] + 1, lengths->ne[0], head * share, share);
      auto* spread = ggml_sub(ctx, mean_lengths, build_pair_lengths(ctx, center, view.rope_pairs));
      auto* of_lengths = ggml_div(ctx, ggml_mul_mat(ctx, lengths, spread), view.rope_stretch);
      // Standard scores of each query head: [candidates, share].
      auto* all = ggml_norm(ctx, ggml_add(ctx, ahead, of_lengths), 1e-12f);
      ggml_tensor* most = nullptr;
      for (int64_t i = 0; i < share; ++i) {
        auto* one = ggml_view_2d(ctx, all, all->ne[0], 1, all->nb[1], static_cast<size_t>(i) * all->nb[1]);
        most = most != nullptr ? build_max(ctx, most, one) : one;
      }
      scores = scores != nullptr ? ggml_concat(ctx, scores, most, 1) : most;
    }
    return ggml_cont(ctx, scores);
  }

 private:
  /// The beginning of a column of `share` query heads' moments, divided by the queries' number: [count,
  /// share].
  static ggml_tensor* build_mean(ggml_context* ctx, const LayerView& view, int64_t column, int64_t count,
                                 int64_t first, int64_t share) {
    auto* all = view.moments;
    auto* columns =
        ggml_view_2d(ctx, all, count, share, all->nb[2],
                     static_cast<size_t>(first) * all->nb[2] + static_cast<size_t>(column) * all->nb[1]);
    return ggml_scale(ctx, ggml_cont(ctx, columns), 1.0f / static_cast<float>(view.moment_queries));
  }
};

}  // namespace

std::unique_ptr<Policy> make_triattention(const PolicyOptions& options) {
  return std::make_unique<BudgetedPolicy<TriAttentionSelector>>("triattention", options.budget);
}

}  // namespace windowkv
