#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "backend/graph.h"
#include "windowkv/kv_type.h"

namespace windowkv {

/// K and V memory of one device that caches take segments of: tensors K and V [kv_unit(), units]. A row, a
/// token of one layer, all KV heads of a token side by side, is one unit, or several where layers differ in
/// size: memory is taken in units, so that no layer's rows are padded to another's, and each layer begins at
/// a multiple of its row, so that its rows can be counted. A cache's layers lie behind each other in one
/// segment, so that equal caches taken one after another lie at equal distances, and attention reads them as
/// one tensor with a dimension more. Segments may be taken and given back in any thread.
class KvArena {
 public:
  /// Zeroed, because attention multiplies rows it must not see by 0, which NaN would survive.
  KvArena(const Backends& backends, const HParams& hp, KvTypes types, int64_t units, size_t device = 0);

  /// `rows` of the layer and as many more as bring what comes after them to an address that the device's
  /// kernels read from, and where a row of any layer may begin.
  static int64_t rounded_up(const Backends& backends, const HParams& hp, KvTypes types, int64_t rows,
                            size_t device, int layer);

  /// All of it as rows of so many units: tensors [units·kv_unit(), rows].
  struct Rows {
    ggml_tensor* k = nullptr;
    ggml_tensor* v = nullptr;
    int64_t count() const { return k != nullptr ? k->ne[1] : 0; }
  };
  Rows rows_of(int64_t units) const;
  KvTypes types() const { return types_; }
  int64_t units() const { return units_; }
  /// Never the same for two arenas.
  uint64_t id() const { return id_; }
  /// Of one unit of K and one of V.
  int64_t unit_bytes() const { return unit_bytes_; }

  /// First unit of a segment of `units` that is the caller's until give_back; the lowest that is free. Throws
  /// PoolFull where no free run is that long.
  int64_t take(int64_t units);
  void give_back(int64_t first, int64_t units);

  int64_t free_units() const;
  int64_t longest_free() const;

 private:
  int64_t longest_run() const;  ///< with mutex_ held

  uint64_t id_;
  Storage storage_;
  KvTypes types_;
  int64_t units_;
  int64_t unit_bytes_;
  ggml_context_ptr views_;
  std::map<int64_t, Rows> rows_;     ///< by units of a row
  mutable std::mutex mutex_;         ///< of free_
  std::map<int64_t, int64_t> free_;  ///< first unit → units, no two adjacent
};

/// An arena on each device that holds layers.
class KvMemory {
 public:
  /// `units` by device.
  KvMemory(const Backends& backends, const HParams& hp, KvTypes types, const std::vector<int64_t>& units);
  /// Layers with K and V of their own that each device holds. Before layers are placed, all is the first's.
  static std::vector<int64_t> layers_by_device(const Backends& backends, const HParams& hp);
  /// `units` in all cut by device, in proportion to those.
  static std::vector<int64_t> cut(const Backends& backends, const HParams& hp, int64_t units);

  const Backends& backends() const { return backends_; }
  KvArena& on(size_t device) const { return *arenas_[device]; }
  /// Where a layer's rows lie.
  KvArena& of(int layer) const { return on(backends_.device_of(layer)); }
  KvTypes types() const { return arenas_.front()->types(); }
  int64_t unit_bytes() const { return arenas_.front()->unit_bytes(); }
  int64_t units() const;
  int64_t free_units() const;
  /// Whether every device has its part of `units` units, in proportion to its layers, in one piece.
  bool fits(int64_t units) const;

 private:
  const Backends& backends_;
  std::vector<int64_t> layers_;                   ///< by device
  std::vector<std::unique_ptr<KvArena>> arenas_;  ///< by device
};

}  // namespace windowkv
