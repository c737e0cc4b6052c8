#pragma once

#include <span>

#include "backend/graph.h"
#include "cache/kv_cache.h"
#include "model/loaded_model.h"

namespace windowkv {

/// Sums of the attention that tokens receive from the queries of every stride-th one.
struct ReceivedSum {
  int64_t stride;
  ggml_tensor* sums;  ///< [tokens, n_head] F32, added to

  /// How many tokens from position `first` on come before the first such one.
  int64_t skipped(int64_t first) const { return stride - 1 - first % stride; }
  /// Of x [.., .., t], whose tokens begin at position `first`, the columns of such ones; null where there are
  /// none.
  ggml_tensor* columns(ggml_context* ctx, ggml_tensor* x, int64_t first) const;
};

/// Sums of a prompt that a layer is asked for at most.
inline constexpr size_t kMostStrides = 4;

/// Causal attention of a prompt's chunks on the CPU (backend/causal_attention.h). No mask and no product of
/// queries and keys is held.
class PrefillAttention {
 public:
  /// Whether it computes that model's.
  static bool takes(const Backends& backends, const HParams& hp);

  /// For chunks of up to `chunk` tokens. Throws Error where the memory is not to be had.
  PrefillAttention(const Backends& backends, const HParams& hp, int64_t chunk);

  /// Attention of q [d_head, n_head, t], to which rows [end, end + t) belong, over the rows up to each, from
  /// those on where the KV heads' `begins` are (none: the first), and of them the last ones that the layer's
  /// window shows: [d_head·n_head, t] F32, columns [column, column + t) of the chunk's results, good until
  /// the next chunk's graph runs.
  ggml_tensor* build(Graph& graph, const LayerAttention& layer, ggml_tensor* q, const KvRows& rows,
                     int64_t end, int64_t column = 0, std::span<const int64_t> begins = {}) const;

  /// Adds to the sums what rows receive from q [d_head, n_head, t], to which rows [end, end + t) belong, in a
  /// layer without a window, sinks aside. `attended`: what build() made of the same q, all of whose KV heads
  /// begin at the first row, or null; with it the products are computed once instead of twice.
  void add_received(Graph& graph, const LayerAttention& layer, ggml_tensor* q, const KvRows& rows,
                    int64_t end, const ReceivedSum& received, ggml_tensor* attended) const;

  /// Log sums of the scores that build() made `attended` of, [1, n_head, t], once that is computed; null
  /// where sinks or a window are in them.
  static ggml_tensor* log_sums(const LayerAttention& layer, ggml_tensor* attended);

  /// Bytes of a chunk's results.
  static int64_t bytes(const HParams& hp, int64_t chunk);

 private:
  Storage storage_;
  ggml_tensor* out_;
  ggml_tensor* log_sums_;  ///< [n_head, chunk] of the queries' scores
};

}  // namespace windowkv
