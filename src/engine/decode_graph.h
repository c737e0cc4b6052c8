#pragma once

#include <optional>
#include <span>
#include <vector>

#include "backend/graph.h"
#include "cache/kv_cache.h"
#include "engine/attention.h"
#include "engine/row_attention.h"
#include "engine/step_inputs.h"
#include "model/loaded_model.h"

namespace windowkv {

/// The graph that decodes one token of each of several caches, the batch. The batch's columns are the caches
/// in the order of their memory, so that those at equal distances are read by one attention. A graph depends
/// on where rows lie and on lengths rounded up, not on which sequences they belong to: it serves as many
/// tokens as the rounding leaves room for, and the sequences that take the place of others.
class DecodeGraph {
 public:
  enum class Result { kLogits, kGreedy };

  /// Orders caches as a batch's columns.
  static bool before(const KvCache& a, const KvCache& b);

  /// `caches` in that order, with room for one more token each.
  DecodeGraph(LoadedModel& m, std::span<const KvCache* const> caches, Result result);

  /// Nodes the graph of such a batch may have.
  static size_t node_limit(const HParams& hp, size_t caches);

  bool serves(std::span<const KvCache* const> caches, Result result) const;

  /// Fills the inputs of one step; once the graph is allocated in `scheduler`, which counts the copies.
  void set_inputs(std::span<const KvCache* const> caches, std::span<const int32_t> tokens,
                  std::span<const int32_t> positions, Scheduler& scheduler);

  const Graph& graph() const { return graph_; }
  /// [n_vocab, caches] F32 logits, or [caches] I32 ids.
  ggml_tensor* result() const { return result_; }

 private:
  using Batch = std::span<const KvCache* const>;

  /// Columns that one attention reads.
  struct Run {
    size_t first;  ///< column
    size_t count;
    int64_t visible;   ///< rows of each cache
    int64_t distance;  ///< rows from cache to cache
    int64_t heads;     ///< masks of a column: one for all heads, or one for each KV head
    bool operator==(const Run&) const = default;
  };
  /// Where the batch's rows of one layer lie.
  struct Layout {
    std::vector<int64_t> offsets;  ///< of each column's rows from the lowest of a column in its arena
    std::vector<int64_t> lengths;
    std::vector<std::vector<int64_t>> begins;  ///< KvCache::Layer::begins
    std::vector<Run> runs;                     ///< none where rows are read in place
    int64_t window = 0;                        ///< LayerAttention::window
    size_t device = 0;
    bool operator==(const Layout&) const = default;
  };
  /// Layers of equal layout share their inputs.
  struct LayoutClass {
    int layer;  ///< one of them
    Layout layout;
    int64_t slots;                ///< StepInputs: rows that the tokens' K and V go to, by column
    std::vector<int64_t> masks;   ///< by run, [visible, 1, 1, count or heads]
    std::vector<int64_t> shown;   ///< by run: the first of the changes that show the tokens' own rows
    std::vector<int64_t> hidden;  ///< likewise of those that hide what leaves a window
    std::vector<int64_t> rows;    ///< by column: rows its mask shows
  };

  Layout layout_of(Batch caches, int layer, int64_t window) const;
  /// Finds the layers' classes, and makes room for their inputs.
  void lay_out(LoadedModel& m, Batch caches);
  size_t class_of(Batch caches, int layer, int64_t window);
  ggml_tensor* positions_on(size_t device);
  /// Writes into a class's masks what a step changes of them.
  void set_masks(Batch caches, LayoutClass& c);
  void store(Batch caches, int layer, const Family::Qkv& qkv, ggml_tensor* slots);
  void keep_queries(Batch caches, int layer, ggml_tensor* q);
  ggml_tensor* recur(LoadedModel& m, Batch caches, int layer, ggml_tensor* x);
  ggml_tensor* attention(LoadedModel& m, Batch caches, int layer, ggml_tensor* q, const LayoutClass& c);
  /// Whether the layer's rows are read where they lie, with no mask: where the CPU computes it.
  bool in_place(const KvCache& cache, int layer) const;
  bool lies_as_built(Batch caches) const;
  /// The lowest first row of the layer among the columns that lie in the arenas of column `first`. Columns
  /// are in the order of the first device's memory; another's may have given out its rows in another order.
  int64_t lowest_row(Batch caches, size_t first, int layer) const;

  Graph graph_;
  Result kind_;
  std::vector<size_t> arenas_;  ///< by column: the first column whose cache lies in the same arenas
  /// Where a cache's rows of a layer begin.
  struct Place {
    uint64_t arena;
    int64_t row;
    bool operator==(const Place&) const = default;
  };
  static Place place_of(const KvCache& cache, int layer) {
    return {cache.arena(layer).id(), cache.layer(layer).rows.first()};
  }
  std::vector<Place> places_;  ///< by layer and column
  static constexpr size_t kNoClass = SIZE_MAX;
  const HParams& hp_;
  std::vector<size_t> layer_class_;  ///< by layer; none of one without rows
  std::vector<LayoutClass> classes_;
  std::vector<StepInputs::Sizes> sizes_;           ///< by device
  std::vector<std::optional<StepInputs>> inputs_;  ///< by device that has layers; the positions come first
  std::vector<ggml_tensor*> positions_;            ///< by device: [caches] I32, null until a layer asks
  std::vector<ggml_fp16_t> values_;                ///< of one mask at a time
  std::vector<uint64_t> versions_;                 ///< by column: of the cache the masks were filled for
  std::vector<uint64_t> queries_;                  ///< by column: id of where its queries go, 0: nowhere
  std::vector<uint64_t> states_;        ///< by column: id of its recurrent layers' state, 0: there is none
  std::vector<RowAttention> in_place_;  ///< by layer; without columns where masks are used
  ggml_tensor* tokens_ = nullptr;       ///< [caches] I32
  ggml_tensor* result_ = nullptr;
};

}  // namespace windowkv
