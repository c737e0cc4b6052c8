#include "policy/observed_attention.h"

#include <ggml.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "backend/graph.h"
#include "windowkv/head_scores.h"

namespace windowkv {

namespace {

/// Of some KV heads, contiguous: queries, and keys that can be multiplied.
std::pair<ggml_tensor*, ggml_tensor*> of_heads(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k,
                                               KvHeads heads) {
  const int64_t share = q->ne[2] / k->ne[2];
  q = ggml_view_3d(ctx, q, q->ne[0], q->ne[1], share * heads.count, q->nb[1], q->nb[2],
                   static_cast<size_t>(heads.first * share) * q->nb[2]);
  k = ggml_view_3d(ctx, k, k->ne[0], k->ne[1], heads.count, k->nb[1], k->nb[2],
                   static_cast<size_t>(heads.first) * k->nb[2]);
  // Quantized keys are multiplied as they are: widening them costs more than the product of a few queries.
  if (!ggml_is_quantized(k->type)) k = build_widened(ctx, k, build_numbers(ctx, k->ne[1], heads.count));
  return {q, k};
}

}  // namespace

ggml_tensor* build_products(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k) {
  // One product of all columns of a KV head: BLAS takes those of 32 and more.
  const int64_t heads = k->ne[2];
  auto* a = ggml_mul_mat(ctx, k, ggml_reshape_3d(ctx, q, q->ne[0], q->ne[1] * q->ne[2] / heads, heads));
  ggml_prec_set_acc(a, GGML_PREC_F32);
  return ggml_reshape_3d(ctx, a, k->ne[1], q->ne[1], q->ne[2]);
}

namespace {

/// `products`, bounded in place where there is a cap: what a softmax turns into attention with the factor
/// softmax_scale().
ggml_tensor* build_capped(ggml_context* ctx, ggml_tensor* products, LogitScale logits) {
  if (logits.softcap == 0) return products;
  return ggml_tanh_inplace(ctx, ggml_scale_inplace(ctx, products, logits.scale / logits.softcap));
}

float softmax_scale(LogitScale logits) {
  return logits.softcap > 0 ? logits.softcap : logits.scale;
}

/// [keys, t] F32: what is added to the scores of queries of every `stride`-th token from position `first` on,
/// each of which sees the keys up to its own.
ggml_tensor* build_strided_mask(ggml_context* ctx, int64_t keys, int64_t t, int64_t first, int64_t stride) {
  const auto begin = static_cast<float>(first);
  auto* own = ggml_arange(ctx, begin, begin + static_cast<float>(stride * t), static_cast<float>(stride));
  auto* all = ggml_repeat_4d(ctx, ggml_arange(ctx, 0.0f, static_cast<float>(keys), 1.0f), keys, t, 1, 1);
  auto* after = ggml_sub(ctx, all, ggml_reshape_2d(ctx, own, 1, t));
  return ggml_scale(ctx, ggml_step(ctx, after), -1e30f);  // not infinity, which 0 would make a NaN of
}

}  // namespace

ggml_tensor* build_attention(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k, KvHeads heads, int64_t past,
                             LogitScale logits, int64_t stride) {
  std::tie(q, k) = of_heads(ctx, q, k, heads);
  if (stride == 1) return build_head_attention(ctx, q, k, past, logits);
  auto* mask = build_strided_mask(ctx, k->ne[1], q->ne[1], past, stride);
  return ggml_soft_max_ext(ctx, build_capped(ctx, build_products(ctx, q, k), logits), mask,
                           softmax_scale(logits), 0.0f);
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
                                  LogitScale logits) {
  auto* a = build_capped(ctx, build_products(ctx, q, k), logits);
  a = ggml_diag_mask_inf_inplace(ctx, a, static_cast<int>(past));
  return ggml_soft_max_ext_inplace(ctx, a, nullptr, softmax_scale(logits), 0.0f);
}

ggml_tensor* build_sum_over_queries(ggml_context* ctx, ggml_tensor* attention) {
  // repeat_back adds what lies side by side in dimension 1.
  auto* shape = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, attention->ne[0], 1, attention->ne[2]);
  return ggml_reshape_2d(ctx, ggml_repeat_back(ctx, attention, shape), attention->ne[0], attention->ne[2]);
}

ggml_tensor* build_max_over_queries(ggml_context* ctx, ggml_tensor* a) {
  // By halves that overlap where there is a middle. Not ggml_pool_2d, which is one thread's work on the CPU.
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

namespace {

ggml_tensor* over_queries(ggml_context* ctx, ggml_tensor* a, int64_t keys, Rows rows) {
  a = ggml_view_3d(ctx, a, keys, a->ne[1], a->ne[2], a->nb[1], a->nb[2], 0);
  if (rows == Rows::kSum) return build_sum_over_queries(ctx, a);
  auto* most = build_max_over_queries(ctx, a);
  return ggml_reshape_2d(ctx, most, keys, most->ne[2]);
}

}  // namespace

ggml_tensor* build_observed_attention(ggml_context* ctx, const LayerView& view, KvHeads heads, int64_t keys,
                                      Rows rows) {
  const int64_t n = view.k->ne[1];
  return over_queries(
      ctx,
      build_attention(ctx, view.q, view.k, heads, n - (view.q->ne[1] - view.after_prompt), logits_of(view)),
      keys, rows);
}

}  // namespace windowkv
