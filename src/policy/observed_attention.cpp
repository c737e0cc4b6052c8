#include "policy/observed_attention.h"

#include <ggml.h>

namespace windowkv {

ggml_tensor* build_attention(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k, int64_t kv_head, int64_t past,
                             float scale) {
  const int64_t share = q->ne[2] / k->ne[2];
  q = ggml_view_3d(ctx, q, q->ne[0], q->ne[1], share, q->nb[1], q->nb[2],
                   static_cast<size_t>(kv_head * share) * q->nb[2]);
  k = ggml_view_2d(ctx, k, k->ne[0], k->ne[1], k->nb[1], static_cast<size_t>(kv_head) * k->nb[2]);
  auto* a = ggml_mul_mat(ctx, ggml_cast(ctx, k, GGML_TYPE_F32), q);
  ggml_prec_set_acc(a, GGML_PREC_F32);
  a = ggml_diag_mask_inf_inplace(ctx, a, static_cast<int>(past));
  return ggml_soft_max_ext_inplace(ctx, a, nullptr, scale, 0.0f);
}

ggml_tensor* build_sum_over_queries(ggml_context* ctx, ggml_tensor* attention) {
  // repeat_back adds what lies side by side in dimension 1.
  auto* shape = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, attention->ne[0], 1, attention->ne[2]);
  return ggml_reshape_2d(ctx, ggml_repeat_back(ctx, attention, shape), attention->ne[0], attention->ne[2]);
}

ggml_tensor* build_observed_attention(ggml_context* ctx, const LayerView& view, int64_t kv_head, int64_t keys,
                                      Rows rows) {
  auto* a = build_attention(ctx, view.q, view.k, kv_head, view.k->ne[1] - view.q->ne[1], view.scale);
  if (rows == Rows::kSum)
    return build_sum_over_queries(ctx, ggml_view_3d(ctx, a, keys, a->ne[1], a->ne[2], a->nb[1], a->nb[2], 0));
  const auto queries = static_cast<int>(a->ne[1]);
  auto* most = ggml_pool_2d(ctx, a, GGML_OP_POOL_MAX, 1, queries, 1, queries, 0, 0);  // [n, 1, share]
  return ggml_cont(ctx, ggml_view_2d(ctx, most, keys, most->ne[2], most->nb[2], 0));
}

}  // namespace windowkv
