#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
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
  /// Other devices than the CPU attend fastest, some with other kernels, where the number of rows is a
  /// multiple of this (ggml's CUDA backend: FATTN_KQ_STRIDE). Behind the last row that may be taken are as
  /// many more, so that a range that begins at any row may be rounded up; a mask hides what does not belong
  /// to it.
  static constexpr int64_t kAttentionStep = 256;

  /// Zeroed, because attention multiplies rows it must not see by 0, which NaN would survive.
  KvArena(const Backends& backends, const HParams& hp, KvTypes types, int64_t units, size_t device = 0);

  /// `rows` of the layer and as many more as bring what comes after them to an address that the device's
  /// kernels read from, and where a row of any layer may begin.
  static int64_t rounded_up(const Backends& backends, const HParams& hp, KvTypes types, int64_t rows,
                            size_t device, int layer);

  /// All of it as rows of so many units, those behind the last included: tensors [units·kv_unit(), rows].
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

  /// First unit of a segment of `units` that is the caller's until give_back; the lowest that is free. None
  /// where no free run is that long.
  std::optional<int64_t> take(int64_t units);
  void give_back(int64_t first, int64_t units);

  int64_t free_units() const;
  int64_t longest_free() const;

 private:
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

/// The arenas of each device that holds layers: one, or as many as make tensors no larger than the device
/// takes (on Vulkan often 1 or 4 GiB).
class KvMemory {
 public:
  /// `units` by device. `most_bytes`: of a tensor; 0: as many as the device takes.
  KvMemory(const Backends& backends, const HParams& hp, KvTypes types, const std::vector<int64_t>& units,
           int64_t most_bytes = 0);
  /// Layers with K and V of their own that each device holds. Before layers are placed, all is the first's.
  static std::vector<int64_t> layers_by_device(const Backends& backends, const HParams& hp);
  /// `units` in all cut by device, in proportion to those.
  static std::vector<int64_t> cut(const Backends& backends, const HParams& hp, int64_t units);

  using Arenas = std::vector<std::unique_ptr<KvArena>>;
  const Backends& backends() const { return backends_; }
  /// No fewer than one.
  const Arenas& on(size_t device) const { return arenas_[device]; }
  KvTypes types() const { return arenas_.front().front()->types(); }
  int64_t unit_bytes() const { return arenas_.front().front()->unit_bytes(); }
  int64_t units() const;
  int64_t free_units() const;
  /// Of a device, in one piece.
  int64_t longest_free(size_t device) const;
  /// Whether every device has its part of `units` units, in proportion to its layers: in one piece where an
  /// arena holds so many, else in one piece of each.
  bool fits(int64_t units) const;

 private:
  const Backends& backends_;
  std::vector<int64_t> layers_;  ///< by device
  std::vector<Arenas> arenas_;   ///< by device
};

}  // namespace windowkv
