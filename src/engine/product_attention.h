#pragma once

#include <span>
#include <utility>

#include "backend/graph.h"
#include "cache/kv_cache.h"
#include "engine/replay.h"
#include "model/loaded_model.h"

namespace windowkv {

/// Sums of the attention that tokens receive from the queries of every stride-th one.
struct ReceivedSum {
  int64_t stride;
  ggml_tensor* sums;  ///< [tokens, n_head] F32, added to

  /// Of `count` tokens from position `first` on, how many come before the first such one, and how many there
  /// are.
  std::pair<int64_t, int64_t> among(int64_t first, int64_t count) const {
    const int64_t skipped = stride - 1 - first % stride;
    return {skipped, skipped < count ? (count - skipped + stride - 1) / stride : 0};
  }
};

/// Sums that a call takes at most.
inline constexpr size_t kMostStrides = 4;

/// Causal attention of a prompt's chunks as matrix products: K·q, softmax, V·p, in float32, a KV head and a
/// tile of queries at a time. Where products are fast (BLAS) it overtakes the fused kernel; a tile reads the
/// keys up to its last query and no mask.
class ProductAttention {
 public:
  /// For chunks of up to `chunk` tokens. Throws Error where the memory is not to be had.
  ProductAttention(const Backends& backends, const HParams& hp, int64_t chunk);

  /// Attention of q [d_head, n_head, t], to which rows [end, end + t) belong, over the rows up to each, from
  /// those on where the KV heads' `begins` are (none: the first), and of them the last ones that the layer's
  /// window shows: [d_head·n_head, t] F32, columns [column, column + t) of the chunk's results, good until
  /// the next chunk's graph runs. `sums` are added to, where no head begins later, and `replayed`, where it
  /// is not null, is raised; neither in a layer with a window.
  ggml_tensor* build(Graph& graph, const LayerAttention& layer, ggml_tensor* q, const KvRows& rows,
                     int64_t end, int64_t column = 0, std::span<const int64_t> begins = {},
                     std::span<const ReceivedSum> sums = {}, const ReplayMaxima* replayed = nullptr) const;

  /// Nodes that a call adds at most.
  static size_t nodes(const HParams& hp, int64_t chunk);
  /// Bytes of a chunk's results.
  static int64_t result_bytes(const HParams& hp, int64_t chunk);
  /// Bytes of intermediate results for a prompt of n tokens; an estimate.
  static int64_t bytes(const HParams& hp, int64_t n, int64_t chunk);

 private:
  Storage storage_;
  ggml_tensor* out_;
};

}  // namespace windowkv
