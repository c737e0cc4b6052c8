#pragma once

#include <vector>

#include "backend/logit_scale.h"
#include "windowkv/policy.h"

namespace windowkv {

/// KV heads [first, first + count).
struct KvHeads {
  int64_t first = 0;
  int64_t count = 1;
};

inline LogitScale logits_of(const LayerView& view) {
  return {view.scale, view.softcap};
}

/// The KV heads of a layer, as many at once as some MiB hold: few nodes for short prompts, little memory for
/// long ones.
std::vector<KvHeads> heads_at_once(const LayerView& view);

/// Bytes that the attention of the observation window takes at once. `columns`: queries of one KV head.
int64_t observed_attention_bytes(int64_t keys, int64_t d_head, int64_t n_head_kv, int64_t columns);

/// build_observed_by_head for the query heads of some KV heads, by ggml's operations.
ggml_tensor* build_observed_attention(ggml_context* ctx, const LayerView& view, KvHeads heads, int64_t keys,
                                      Rows rows);

/// Softmax attention [keys, t, count · share] F32 of the queries q [d_head, t, n_head] over k [d_head, keys,
/// n_head_kv], for the query heads of some KV heads. Query i sees keys 0 to `past` + `stride`·i.
ggml_tensor* build_attention(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k, KvHeads heads, int64_t past,
                             LogitScale logits, int64_t stride = 1);

/// The same of all queries q [d_head, t, heads · share], contiguous, over the keys k [d_head, keys, heads]
/// F32 or quantized.
ggml_tensor* build_head_attention(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k, int64_t past,
                                  LogitScale logits);

/// Products [keys, t, heads · share] of all queries q [d_head, t, heads · share] with keys [d_head, keys,
/// heads].
ggml_tensor* build_products(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k);

/// The most that [keys, t, share], or a view of it with contiguous rows, has over t: [keys, 1, share].
ggml_tensor* build_max_over_queries(ggml_context* ctx, ggml_tensor* attention);

/// Sums [keys, t, share], or a view of it with contiguous rows, over t: [keys, share].
ggml_tensor* build_sum_over_queries(ggml_context* ctx, ggml_tensor* attention);

}  // namespace windowkv
