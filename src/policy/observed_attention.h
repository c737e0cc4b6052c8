#pragma once

#include "windowkv/policy.h"

namespace windowkv {

/// Adds the attention of the observation window to the graph, for the query heads of one KV head: softmax
/// over all keys in float32, causal inside the window, summed over its rows, or the most that one row gave.
/// Returns [keys, n_head / n_head_kv] F32: what each of the prompt's first `keys` tokens received from each
/// query head.
ggml_tensor* build_observed_attention(ggml_context* ctx, const LayerView& view, int64_t kv_head, int64_t keys,
                                      Rows rows = Rows::kSum);

/// Softmax attention [keys, t, share] F32 of the queries q [d_head, t, n_head] over k [d_head, keys,
/// n_head_kv], for the query heads of one KV head. Query i sees keys 0 to `past` + i.
ggml_tensor* build_attention(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k, int64_t kv_head, int64_t past,
                             float scale);

/// The same of one KV head's queries q [d_head, t, share], contiguous, over its keys k [d_head, keys] F32.
ggml_tensor* build_head_attention(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k, int64_t past,
                                  float scale);

/// Rows [d, n] that may lie apart, as F32 side by side. `numbers`: 0 to n - 1, I32.
ggml_tensor* build_widened(ggml_context* ctx, ggml_tensor* rows, ggml_tensor* numbers);

/// Sums [keys, t, share], or a view of it with contiguous rows, over t: [keys, share].
ggml_tensor* build_sum_over_queries(ggml_context* ctx, ggml_tensor* attention);

}  // namespace windowkv
