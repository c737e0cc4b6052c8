#include "windowkv/head_scores.h"

#include <ggml.h>

#include "policy/observed_attention.h"

namespace windowkv {

ggml_tensor* build_observed_by_head(ggml_context* ctx, const LayerView& view, int64_t keys, Rows rows) {
  ggml_tensor* scores = nullptr;
  for (const auto& heads : heads_at_once(view)) {
    auto* part = build_observed_attention(ctx, view, heads, keys, rows);
    scores = scores != nullptr ? ggml_concat(ctx, scores, part, 1) : part;
  }
  return scores;
}

ggml_tensor* build_mean_over_share(ggml_context* ctx, ggml_tensor* scores, int64_t lists) {
  const int64_t share = scores->ne[1] / lists;
  if (share == 1) return scores;
  // repeat_back adds what lies side by side in dimension 1: the query heads of one KV head.
  auto* by_share = ggml_reshape_3d(ctx, scores, scores->ne[0], share, lists);
  auto* shape = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, scores->ne[0], 1, lists);
  auto* sums = ggml_reshape_2d(ctx, ggml_repeat_back(ctx, by_share, shape), scores->ne[0], lists);
  return ggml_scale(ctx, sums, 1.0f / static_cast<float>(share));
}

ggml_tensor* build_combined_heads(ggml_context* ctx, ggml_tensor* scores, int64_t n_head_kv, Heads heads) {
  if (heads != Heads::kMax) return build_mean_over_share(ctx, scores, heads == Heads::kMean ? 1 : n_head_kv);
  auto head = [&](int64_t h) {
    return ggml_view_2d(ctx, scores, scores->ne[0], 1, scores->nb[1], static_cast<size_t>(h) * scores->nb[1]);
  };
  auto* most = head(0);
  for (int64_t h = 1; h < scores->ne[1]; ++h) most = build_max(ctx, most, head(h));
  return most;
}

ggml_tensor* build_max(ggml_context* ctx, ggml_tensor* a, ggml_tensor* b) {
  return ggml_add(ctx, b, ggml_relu(ctx, ggml_sub(ctx, a, b)));
}

}  // namespace windowkv
