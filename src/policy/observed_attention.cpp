#include "policy/observed_attention.h"

#include <ggml.h>

#include <algorithm>

#include "backend/graph.h"
#include "policy/observed_in_place.h"
#include "windowkv/head_scores.h"

namespace windowkv {

ggml_tensor* build_attention(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k, KvHeads heads, int64_t past,
                             float scale) {
  const int64_t share = q->ne[2] / k->ne[2];
  q = ggml_view_3d(ctx, q, q->ne[0], q->ne[1], share * heads.count, q->nb[1], q->nb[2],
                   static_cast<size_t>(heads.first * share) * q->nb[2]);
  k = ggml_view_3d(ctx, k, k->ne[0], k->ne[1], heads.count, k->nb[1], k->nb[2],
                   static_cast<size_t>(heads.first) * k->nb[2]);
  // Quantized keys are multiplied as they are: widening them costs more than the product of a few queries.
  if (!ggml_is_quantized(k->type)) k = build_widened(ctx, k, build_numbers(ctx, k->ne[1], heads.count));
  return build_head_attention(ctx, q, k, past, scale);
}

namespace {

constexpr int64_t kBytesAtOnce = int64_t{16} << 20;

/// Keys in float32, attention, and half as much again for what follows from it.
int64_t head_bytes(int64_t keys, int64_t d_head, int64_t columns) {
  return keys * (2 * d_head + 3 * columns) * 2;
}

int64_t most_at_once(int64_t keys, int64_t d_head, int64_t n_head_kv, int64_t columns) {
  return std::clamp<int64_t>(kBytesAtOnce / head_bytes(keys, d_head, columns), 1, n_head_kv);
}

}  // namespace

std::vector<KvHeads> heads_at_once(const LayerView& view) {
  const int64_t n_head_kv = view.k->ne[2];
  if (reads_in_place(view)) return {{0, n_head_kv}};
  const int64_t most =
      most_at_once(view.k->ne[1], view.k->ne[0], n_head_kv, view.q->ne[1] * view.q->ne[2] / n_head_kv);
  std::vector<KvHeads> all;
  for (int64_t first = 0; first < n_head_kv; first += most)
    all.push_back({first, std::min(most, n_head_kv - first)});
  return all;
}

int64_t observed_attention_bytes(int64_t keys, int64_t d_head, int64_t n_head_kv, int64_t columns) {
  return most_at_once(keys, d_head, n_head_kv, columns) * head_bytes(keys, d_head, columns);
}

ggml_tensor* build_head_attention(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k, int64_t past,
                                  float scale) {
  // One product of all columns of a KV head: BLAS takes those of 32 and more.
  const int64_t heads = k->ne[2];
  auto* a = ggml_mul_mat(ctx, k, ggml_reshape_3d(ctx, q, q->ne[0], q->ne[1] * q->ne[2] / heads, heads));
  ggml_prec_set_acc(a, GGML_PREC_F32);
  a = ggml_reshape_3d(ctx, a, k->ne[1], q->ne[1], q->ne[2]);
  a = ggml_diag_mask_inf_inplace(ctx, a, static_cast<int>(past));
  return ggml_soft_max_ext_inplace(ctx, a, nullptr, scale, 0.0f);
}

ggml_tensor* build_sum_over_queries(ggml_context* ctx, ggml_tensor* attention) {
  // repeat_back adds what lies side by side in dimension 1.
  auto* shape = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, attention->ne[0], 1, attention->ne[2]);
  return ggml_reshape_2d(ctx, ggml_repeat_back(ctx, attention, shape), attention->ne[0], attention->ne[2]);
}

namespace {

/// [keys, t, share] → [keys, 1, share], by halves that overlap where there is a middle. Not ggml_pool_2d,
/// which is one thread's work on the CPU.
ggml_tensor* build_max_over_queries(ggml_context* ctx, ggml_tensor* a) {
  while (a->ne[1] > 1) {
    const int64_t half = (a->ne[1] + 1) / 2;
    auto rows_from = [&](int64_t first) {
      return ggml_view_3d(ctx, a, a->ne[0], half, a->ne[2], a->nb[1], a->nb[2],
                          static_cast<size_t>(first) * a->nb[1]);
    };
    a = build_max(ctx, rows_from(0), rows_from(a->ne[1] - half));
  }
  return ggml_cont(ctx, a);
}

}  // namespace

ggml_tensor* build_observed_attention(ggml_context* ctx, const LayerView& view, KvHeads heads, int64_t keys,
                                      Rows rows) {
  const int64_t n = view.k->ne[1];
  if (reads_in_place(view)) return build_observed_in_place(ctx, view, heads, keys, rows);
  auto* a =
      build_attention(ctx, view.q, view.k, heads, view.after_prompt ? n : n - view.q->ne[1], view.scale);
  if (rows == Rows::kSum)
    return build_sum_over_queries(ctx, ggml_view_3d(ctx, a, keys, a->ne[1], a->ne[2], a->nb[1], a->nb[2], 0));
  auto* most =
      build_max_over_queries(ctx, ggml_view_3d(ctx, a, keys, a->ne[1], a->ne[2], a->nb[1], a->nb[2], 0));
  return ggml_reshape_2d(ctx, most, keys, most->ne[2]);
}

}  // namespace windowkv
