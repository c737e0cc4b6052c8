#pragma once

#include <ggml.h>

#include <vector>

#include "cache/kv_cache.h"
#include "model/loaded_model.h"

namespace windowkv {

/// Adds the writing of t tokens' K and V [d_head, n_head_kv, t] into rows [first, first + t).
void store_kv(Graph& graph, const KvRows& rows, int64_t first, const Family::Qkv& qkv);

/// Rows that tokens from row `first` on may begin to read at: before those that a window of so many rows
/// (LayerAttention::window) shows the first of them. In steps, as devices need their addresses aligned.
int64_t first_shown(int64_t first, int64_t window);

/// Attention of q [d_head, n_head, t] over rows [first, end): [d_head·n_head, t] F32. `mask` [≥ end − first,
/// t] F16 or null.
ggml_tensor* attend(ggml_context* ctx, const LayerAttention& layer, ggml_tensor* q, const KvRows& rows,
                    int64_t first, int64_t end, ggml_tensor* mask);

/// Tokens [first, first + count) of x [d_head, heads, t].
ggml_tensor* token_columns(ggml_context* ctx, ggml_tensor* x, int64_t first, int64_t count);

/// The tensors side by side: in dimension 1, that of columns.
ggml_tensor* join_columns(ggml_context* ctx, std::vector<ggml_tensor*> parts);

/// Rows of the same layer of several caches, at equal distances in one arena.
struct KvStack {
  KvArena::Rows all;
  int64_t first;     ///< row where the first cache's begin
  int64_t distance;  ///< rows from one cache's to the next one's; any for a single cache
  int64_t caches;
  int64_t visible;       ///< rows of each that attention reads
  bool by_head = false;  ///< whether KV heads begin at different rows; of a single cache then
};

/// Attention of one token of each cache, q [d_head, n_head, caches], over its own rows: [d_head·n_head,
/// caches] F32. `mask` [visible, 1, 1, caches], or n_head_kv instead of caches by head, F16.
ggml_tensor* attend(ggml_context* ctx, const LayerAttention& layer, ggml_tensor* q, const KvStack& stack,
                    ggml_tensor* mask);

}  // namespace windowkv
