#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "backend/graph.h"
#include "windowkv/kv_type.h"

namespace windowkv {

/// K and V memory of one device that caches take segments of: tensors K and V [d_head·n_head_kv, rows], a row
/// a token of one layer, all KV heads of a token side by side. A cache's layers lie behind each other in one
/// segment, so that equal caches taken one after another lie at equal distances, and attention reads them as
/// one tensor with a dimension more. Segments may be taken and given back in any thread.
class KvArena {
 public:
  /// Zeroed, because attention multiplies rows it must not see by 0, which NaN would survive.
  KvArena(const Backends& backends, const HParams& hp, KvTypes types, int64_t rows, size_t device = 0);

  /// `rows` and as many more as bring what comes after them to an address that the device's kernels read
  /// from.
  static int64_t rounded_up(const Backends& backends, const HParams& hp, KvTypes types, int64_t rows,
                            size_t device);

  ggml_tensor* k() const { return k_; }
  ggml_tensor* v() const { return v_; }
  KvTypes types() const { return types_; }
  int64_t rows() const { return rows_; }
  /// Never the same for two arenas.
  uint64_t id() const { return id_; }
  /// Of one row of K and one of V.
  int64_t row_bytes() const { return row_bytes_; }

  /// First row of a segment of `rows` that is the caller's until give_back; the lowest that is free. Throws
  /// PoolFull where no free run is that long.
  int64_t take(int64_t rows);
  void give_back(int64_t first, int64_t rows);

  int64_t free_rows() const;
  int64_t longest_free() const;

 private:
  int64_t longest_run() const;  ///< with mutex_ held

  uint64_t id_;
  Storage storage_;
  KvTypes types_;
  int64_t rows_;
  int64_t row_bytes_;
  ggml_tensor* k_ = nullptr;
  ggml_tensor* v_ = nullptr;
  mutable std::mutex mutex_;         ///< of free_
  std::map<int64_t, int64_t> free_;  ///< first row → rows, no two adjacent
};

/// An arena on each device that holds layers.
class KvMemory {
 public:
  /// `rows` by device.
  KvMemory(const Backends& backends, const HParams& hp, KvTypes types, const std::vector<int64_t>& rows);
  /// `rows` in all cut by device, in proportion to the layers that each holds.
  static std::vector<int64_t> cut(const Backends& backends, int64_t rows);

  const Backends& backends() const { return backends_; }
  KvArena& on(size_t device) const { return *arenas_[device]; }
  /// Where a layer's rows lie.
  KvArena& of(int layer) const { return on(backends_.device_of(layer)); }
  KvTypes types() const { return arenas_.front()->types(); }
  int64_t row_bytes() const { return arenas_.front()->row_bytes(); }
  int64_t rows() const;
  int64_t free_rows() const;
  /// Whether every device has its part of `rows` rows, in proportion to its layers, in one piece.
  bool fits(int64_t rows) const;

 private:
  const Backends& backends_;
  std::vector<std::unique_ptr<KvArena>> arenas_;  ///< by device
};

}  // namespace windowkv
