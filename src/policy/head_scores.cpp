#include "windowkv/head_scores.h"

#include <ggml.h>

#include <algorithm>

#include "policy/observed_attention.h"
#include "policy/observed_end.h"
#include "policy/observed_in_place.h"

namespace windowkv {

ggml_tensor* build_observed_by_head(ggml_context* ctx, const LayerView& view, int64_t keys, Rows rows) {
  if (reads_in_place(view)) return build_observed_in_place(ctx, view, keys, rows);
  if (observes_end(view)) return build_observed_end(ctx, view, keys, rows);
  ggml_tensor* scores = nullptr;
  for (const auto& heads : heads_at_once(view)) {
    auto* part = build_observed_attention(ctx, view, heads, keys, rows);
    scores = scores != nullptr ? ggml_concat(ctx, scores, part, 1) : part;
  }
  return scores;
}

namespace {

/// dst [x, lists] of src[0] [x, n_head].
void mean_over_share(ggml_tensor* dst, int ith, int nth, void*) {
  const auto* scores = dst->src[0];
  const int64_t share = scores->ne[1] / dst->ne[1];
  const int64_t first = dst->ne[0] * ith / nth;
  const int64_t last = dst->ne[0] * (ith + 1) / nth;
  for (int64_t list = 0; list < dst->ne[1]; ++list) {
    auto* out =
        reinterpret_cast<float*>(static_cast<char*>(dst->data) + static_cast<size_t>(list) * dst->nb[1]);
    for (int64_t i = 0; i < share; ++i) {
      const auto* in = reinterpret_cast<const float*>(static_cast<const char*>(scores->data) +
                                                      static_cast<size_t>(list * share + i) * scores->nb[1]);
      if (i == 0)
        std::copy(in + first, in + last, out + first);
      else
        for (int64_t j = first; j < last; ++j) out[j] += in[j];
    }
    for (int64_t j = first; j < last; ++j) out[j] /= static_cast<float>(share);
  }
}

}  // namespace

ggml_tensor* build_mean_over_share(ggml_context* ctx, ggml_tensor* scores, int64_t lists, bool on_cpu) {
  const int64_t share = scores->ne[1] / lists;
  if (share == 1) return scores;
  if (on_cpu)  // where ggml's repeat_back is one thread's work
    return ggml_custom_4d(ctx, GGML_TYPE_F32, scores->ne[0], lists, 1, 1, &scores, 1, mean_over_share,
                          GGML_N_TASKS_MAX, nullptr);
  // repeat_back adds what lies side by side in dimension 1: the query heads of one KV head.
  auto* by_share = ggml_reshape_3d(ctx, scores, scores->ne[0], share, lists);
  auto* shape = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, scores->ne[0], 1, lists);
  auto* sums = ggml_reshape_2d(ctx, ggml_repeat_back(ctx, by_share, shape), scores->ne[0], lists);
  return ggml_scale(ctx, sums, 1.0f / static_cast<float>(share));
}

ggml_tensor* build_combined_heads(ggml_context* ctx, ggml_tensor* scores, int64_t n_head_kv, Heads heads,
                                  bool on_cpu) {
  if (heads != Heads::kMax)
    return build_mean_over_share(ctx, scores, heads == Heads::kMean ? 1 : n_head_kv, on_cpu);
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
