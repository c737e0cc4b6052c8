#pragma once

#include "windowkv/policy.h"

namespace windowkv {

/// Whether the layer's keys are scored where they lie, by functions of our own: behind the prompt, where the
/// CPU computes it. A few queries and many keys are a poor matrix product.
bool reads_in_place(const LayerView& view);

/// build_observed_by_head of such a view. LayerView::k_after counts among the keys.
ggml_tensor* build_observed_in_place(ggml_context* ctx, const LayerView& view, int64_t keys, Rows rows);

/// Whether the view has one query, so that means of its attention need not be made of each query head's.
bool means_in_place(const LayerView& view);

/// [count, n_head_kv]: the attention to keys [first, first + count) of such a view, the mean over the query
/// heads of each KV head.
ggml_tensor* build_mean_in_place(ggml_context* ctx, const LayerView& view, int64_t first, int64_t count);

}  // namespace windowkv
