#pragma once

#include "windowkv/policy.h"

/// Scores of query heads side by side, [tokens or windows, n_head] F32, and how they become one choice or one
/// for each KV head.
namespace windowkv {

/// Adds the attention of the observation window to the graph: softmax over all keys in float32, causal inside
/// the window, summed over its rows, or the most that one row gave. Returns [keys, n_head] F32: what each of
/// the prompt's first `keys` tokens received from each query head.
ggml_tensor* build_observed_by_head(ggml_context* ctx, const LayerView& view, int64_t keys,
                                    Rows rows = Rows::kSum);

/// Mean over the query heads of each of `lists` KV heads: [x, n_head] → [x, lists]. `on_cpu`:
/// LayerView::on_cpu.
ggml_tensor* build_mean_over_share(ggml_context* ctx, ggml_tensor* scores, int64_t lists,
                                   bool on_cpu = false);

/// One list of scores, or one for each of n_head_kv KV heads: [x, n_head] → [x, 1] or [x, n_head_kv].
ggml_tensor* build_combined_heads(ggml_context* ctx, ggml_tensor* scores, int64_t n_head_kv, Heads heads,
                                  bool on_cpu = false);

/// The larger of each pair of elements, to the rounding of float32.
ggml_tensor* build_max(ggml_context* ctx, ggml_tensor* a, ggml_tensor* b);

}  // namespace windowkv
