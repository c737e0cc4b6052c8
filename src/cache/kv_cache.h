#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "cache/chosen_rows.h"
#include "cache/kv_arena.h"
#include "cache/last_queries.h"
#include "cache/recurrent_state.h"
#include "windowkv/model.h"

namespace windowkv {

/// Counts the bytes of K/V memory held now, and the most ever held.
class KvMeter {
 public:
  void add(int64_t bytes) { peak_ = std::max(peak_, held_ += bytes); }
  int64_t peak() const { return peak_; }

 private:
  int64_t held_ = 0;
  int64_t peak_ = 0;
};

/// K and V rows of one layer: tensors [d_head·n_head_kv, capacity], RoPE applied to K. A token is one run of
/// bytes, which gathering and appending copy whole. A view of an arena's memory.
class KvRows {
 public:
  KvRows() = default;
  /// Rows [first, first + capacity) of the arena's, as tensors of `ctx`.
  KvRows(ggml_context* ctx, const KvArena::Rows& all, int64_t first, int64_t capacity);

  ggml_tensor* k() const { return k_; }
  ggml_tensor* v() const { return v_; }
  int64_t capacity() const { return k_ != nullptr ? k_->ne[1] : 0; }
  /// Where they begin among the arena's rows of that size.
  int64_t first() const { return first_; }

  /// Rows [first, first + count) as [d_head, count, n_head_kv], the layout attention reads.
  static ggml_tensor* by_head(ggml_context* ctx, ggml_tensor* rows, int64_t d_head, int64_t count);
  /// Rows [first, first + count) as they lie: [row, count].
  static ggml_tensor* slice(ggml_context* ctx, ggml_tensor* rows, int64_t first, int64_t count);

 private:
  ggml_tensor* k_ = nullptr;
  ggml_tensor* v_ = nullptr;
  int64_t first_ = 0;
};

/// A segment of each device's arena, cut into one run of rows a layer; of several of its arenas where none
/// has room for all. Given back when this goes.
class KvSegment {
 public:
  /// A run of rows: `capacity` as KvArena::rounded_up gives it, units of a row (HParams::row_units), and
  /// whose arena it lies in.
  struct Run {
    int64_t capacity;
    int64_t units;
    size_t device;
  };
  KvSegment(std::shared_ptr<KvMemory> memory, const std::vector<Run>& runs, KvMeter& meter);
  ~KvSegment();
  KvSegment(const KvSegment&) = delete;
  KvSegment& operator=(const KvSegment&) = delete;

  const KvRows& layer(int index) const { return layers_[static_cast<size_t>(index)]; }
  /// The same memory as rows of so many units, no more than the run has.
  const KvRows& layer_as(int index, int64_t units);
  const KvMemory& memory() const { return *memory_; }
  /// Where a layer's rows lie.
  const KvArena& arena(int layer) const { return *places_[static_cast<size_t>(layer)].arena; }

 private:
  /// Units taken of one arena.
  class Piece {
   public:
    Piece(KvArena& arena, int64_t first, int64_t units) : arena_(&arena), units_(units), first_(first) {}
    Piece(Piece&& other) noexcept
        : arena_(std::exchange(other.arena_, nullptr)), units_(other.units_), first_(other.first_) {}
    Piece& operator=(Piece&&) = delete;
    ~Piece() {
      if (arena_ != nullptr) arena_->give_back(first_, units_);
    }

   private:
    KvArena* arena_;
    int64_t units_;
    int64_t first_;
  };
  /// Takes what the runs need, or as many of them from the first on as the arena has room for; returns how
  /// many.
  size_t take(KvArena& arena, std::span<const size_t> runs);

  /// A run's arena, and the unit where it begins there.
  struct Place {
    KvArena* arena = nullptr;
    int64_t unit = 0;
  };

  std::shared_ptr<KvMemory> memory_;
  KvMeter& meter_;
  std::vector<Run> runs_;
  int64_t units_ = 0;
  std::vector<Piece> pieces_;
  std::vector<Place> places_;  ///< by run
  ggml_context_ptr views_;
  std::vector<KvRows> layers_;
  struct OtherRows {
    ggml_context_ptr views;
    KvRows rows;
  };
  std::map<std::pair<int, int64_t>, OtherRows> others_;  ///< by run and units
};

/// The compressed cache of one sequence: every layer its own length and capacity. In a pool all layers lie in
/// one segment; memory of its own is a buffer a layer, so that growing never holds more than one layer twice.
class KvCache {
 public:
  /// Rows a layer gets beyond its length when it grows first; twice as many each time after.
  static constexpr int64_t kFirstGrowth = 64;

  /// A layer without rows (HParams::has_rows) has the lengths 0; what a layer reads, where it shares K and V,
  /// is in that of HParams::rows_layer.
  struct Layer {
    KvRows rows;
    int64_t length = 0;  ///< rows in use
    int64_t prompt = 0;  ///< of them, those of the prompt
    /// By KV head, the row where what it keeps of the prompt begins; empty: the first row for all. Heads that
    /// keep less begin later, so that generated tokens follow all of them.
    std::vector<int64_t> begins = {};
    int64_t begin_of(int64_t head) const { return begins.empty() ? 0 : begins[static_cast<size_t>(head)]; }
  };

  /// In memory of `shared`, or in its own where that is null. Throws PoolFull where it does not fit there,
  /// Error where there is no memory.
  KvCache(const Backends& backends, const HParams& hp, KvTypes types, const std::vector<int64_t>& capacities,
          std::shared_ptr<KvMemory> shared = nullptr);

  /// A copy whose layer i is that of by_layer[i], with the capacities they have, in memory of `shared` or its
  /// own. All are of one model and one type.
  KvCache(std::span<const KvCache* const> by_layer, std::shared_ptr<KvMemory> shared);

  int layers() const { return static_cast<int>(layers_.size()); }
  Layer& layer(int index) { return layers_[static_cast<size_t>(index)]; }
  const Layer& layer(int index) const { return layers_[static_cast<size_t>(index)]; }
  /// Where the layer's rows lie. Caches whose layers share one arena share all.
  const KvArena& arena(int index) const { return segment_of(index).arena(shared_ ? index : 0); }
  /// All of the arena, in rows of the layer.
  KvArena::Rows arena_rows(int index) const { return arena(index).rows_of(hp_.row_units(index)); }
  KvTypes types() const { return types_; }
  int64_t d_head(int layer) const { return hp_.heads(layer).d_head; }
  const Backends& backends() const { return backends_; }
  /// Of the recurrent layers, which have no rows; null where the model has none.
  RecurrentState* states() const { return states_.get(); }

  /// Where decode puts the queries of the cache's last token; null: nowhere. Must outlive its use.
  LastQueries* queries = nullptr;
  /// What attention reads of a prefix store and of this cache, by layer; null: all rows of this cache. Must
  /// outlive its use.
  const std::vector<ChosenRows>* chosen = nullptr;

  /// Rows that a layer never has more of, by layer; empty: no limit.
  std::vector<int64_t> most_rows = {};

  bool has_room(int64_t tokens) const;
  /// So many tokens' rows were written.
  void lengthen(int64_t tokens);
  /// Drops every row after the prompt's.
  void rewind();
  /// Makes masks over this cache stale, as shortened lengths do: they show rows beyond.
  void forget_masks();
  /// Of a cache in a pool: the segment where every layer has room for `tokens` more, beside the one it has,
  /// for grow(). Null where memory is its own. Throws PoolFull where the pool has no such piece.
  std::unique_ptr<KvSegment> larger_segment(int64_t tokens);
  /// Moves to `larger`, or to larger buffers of its own, a layer after the other. Throws Error where there is
  /// no memory; the cache then holds what it held.
  void grow(int64_t tokens, std::unique_ptr<KvSegment> larger);
  /// Of a cache in memory of its own: gives an empty layer room for `rows`, no more and no less. One in a
  /// pool has the room that it began with.
  void set_capacity(int layer, int64_t rows);
  KvMeter& meter() { return *meter_; }
  /// Changes whenever rows move or lengths shrink; never the same for two caches.
  uint64_t version() const { return version_; }

 private:
  std::vector<int64_t> grown_capacities(int64_t tokens) const;
  /// All layers in the pool, or one in memory of its own.
  std::unique_ptr<KvSegment> pooled_segment(const std::vector<int64_t>& capacities);
  std::unique_ptr<KvSegment> own_segment(int layer, int64_t capacity);
  KvSegment::Run run_of(int layer, int64_t capacity) const;
  const KvSegment& segment_of(int layer) const {
    return *segments_[shared_ ? 0 : static_cast<size_t>(layer)];
  }

  const Backends& backends_;
  const HParams& hp_;
  KvTypes types_;
  std::shared_ptr<KvMemory> shared_;
  std::unique_ptr<KvMeter> meter_;
  std::vector<std::unique_ptr<KvSegment>> segments_;  ///< one of all layers in a pool, else one a layer
  std::vector<Layer> layers_;
  std::unique_ptr<RecurrentState> states_;
  int64_t growth_ = kFirstGrowth;
  uint64_t version_;
};

}  // namespace windowkv
