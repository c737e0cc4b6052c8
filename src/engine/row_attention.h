#pragma once

#include <ggml.h>

#include <cstdint>
#include <vector>

#include "backend/row_kernels.h"
#include "cache/chosen_rows.h"

namespace windowkv {

/// Rows of one layer that a sequence's token attends to: of its cache, all or those that were chosen and the
/// newest; of a prefix store those that were chosen.
struct AttendedRows {
  HostRows k, v;                ///< of the cache
  int64_t length = 0;           ///< rows of it, the token's own included
  std::vector<int64_t> begins;  ///< by KV head, of the cache; empty: 0
  const ChosenRows* chosen = nullptr;
  int64_t window = 0;  ///< of all these, the last ones alone; 0: all
};

/// K or V of a cache or a scratch in host memory, [d_head·n_head_kv, rows].
inline HostRows host_rows(const ggml_tensor* rows, int64_t d_head) {
  return {rows->type, static_cast<const char*>(rows->data), rows->nb[1], ggml_row_size(rows->type, d_head)};
}

/// What the attention of one layer reads, by column. Filled anew before each computation of a graph that
/// attends to it, and stays where it is as long as the graph.
struct RowAttention {
  int64_t n_head_kv = 0;
  LogitScale logits;
  const float* sinks = nullptr;  ///< LayerAttention::sinks
  std::vector<AttendedRows> columns;
};

/// Attention on the CPU of one token of each of several sequences, q [d_head, n_head, columns] F32, over rows
/// where they lie: [d_head·n_head, columns] F32. No mask; lengths may change from one computation to the
/// next.
ggml_tensor* attend_in_place(ggml_context* ctx, ggml_tensor* q, RowAttention& rows);

/// Nodes that attend_in_place adds.
constexpr size_t kRowAttentionNodes = 4;

}  // namespace windowkv
