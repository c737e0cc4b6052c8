#include "policy/window_scores.h"

#include <ggml.h>

#include <algorithm>

#include "windowkv/head_scores.h"

namespace windowkv {

namespace {

/// Mean of each window's p largest: t [tokens, heads] → [windows, heads], windows of `size` tokens from
/// `first` on.
ggml_tensor* pool_windows(ggml_context* ctx, ggml_tensor* t, int64_t first, int64_t windows, int64_t size,
                          int64_t p) {
  const int64_t heads = t->ne[1];
  auto* x = ggml_cont(ctx, ggml_view_3d(ctx, t, size, windows, heads, size * t->nb[0], t->nb[1],
                                        static_cast<size_t>(first) * t->nb[0]));
  p = std::min(p, size);
  if (p < size) {
    auto* rows = ggml_reshape_3d(ctx, x, 1, size, windows * heads);
    auto* order = ggml_argsort(ctx, ggml_reshape_2d(ctx, x, size, windows * heads), GGML_SORT_ORDER_DESC);
    auto* top = ggml_cont(ctx, ggml_view_2d(ctx, order, p, windows * heads, order->nb[1], 0));
    x = ggml_reshape_3d(ctx, ggml_get_rows(ctx, rows, top), p, windows, heads);
  }
  auto* sums = ggml_reshape_2d(ctx, ggml_sum_rows(ctx, x), windows, heads);
  return ggml_scale(ctx, sums, 1.0f / static_cast<float>(p));
}

}  // namespace

ggml_tensor* build_window_scores(ggml_context* ctx, const LayerView& view, const SelectionConfig& c,
                                 int64_t review) {
  const int64_t whole = review / c.omega;
  const int64_t rest = review % c.omega;

  auto* t = build_observed_by_head(ctx, view, review, c.rows);
  ggml_tensor* scores = whole > 0 ? pool_windows(ctx, t, 0, whole, c.omega, c.p) : nullptr;
  if (rest > 0) {
    auto* last = pool_windows(ctx, t, whole * c.omega, 1, rest, c.p);
    scores = scores != nullptr ? ggml_concat(ctx, scores, last, 0) : last;
  }
  scores = build_combined_heads(ctx, scores, view.k->ne[2], c.heads, view.on_cpu);
  return ggml_reshape_1d(ctx, scores, ggml_nelements(scores));
}

}  // namespace windowkv
