#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "backend/graph.h"
#include "cache/kv_cache.h"
#include "cache/prefix_block.h"
#include "cache/query_ring.h"
#include "model/loaded_model.h"
#include "windowkv/policy.h"

namespace windowkv {

/// Queries that choose again: those since the last choice, at most so many. Earlier ones ask for what was
/// wanted then, and follow the full cache less closely (docs/prefix-store.md).
constexpr int kRecallQueries = 4;

/// Chooses a sequence's rows again while it is decoded: its newest queries score the keys of all prompt
/// tokens in a prefix store, by the policy that chose first, and what it picks takes the place of what the
/// cache held of the prompt. Generated tokens stay behind it, and it has as many rows as at first.
class Recall {
 public:
  /// `every`: decoded tokens between two choices. The selector decides in some layer.
  Recall(LoadedModel& m, std::unique_ptr<Selector> selector, int64_t n, int every);
  /// Where the sequence's queries go; holds the prompt's last ones first.
  QueryRing& queries() { return queries_; }
  /// What the layer keeps of the prompt at first, for every layer.
  void starts_with(int layer, KeptTokens kept) { first_[static_cast<size_t>(layer)] = std::move(kept); }
  /// Once the prompt is prefilled: K and V of its tokens.
  void attach(std::shared_ptr<const PrefixBlock> block);

  /// Before a decode step: after rewind(), brings back what was kept first.
  void before_step(const KvCache& cache);
  /// After a decode step: chooses again where it is time to, and says so.
  bool after_step(const KvCache& cache);
  /// Returns to the end of the prompt.
  void rewind();

 private:
  void choose(const KvCache& cache);
  /// Adds the scoring of every group of layers that are decided together.
  void build_scoring();
  /// Adds the copying of every layer's rows into the cache as it lies now.
  void build_gathering(const KvCache& cache);
  void gather(const KvCache& cache, const std::vector<KeptTokens>& kept);

  /// Layers that are settled together, and what was picked for them; null where none decides.
  struct Settled {
    int first;
    int last;
    ggml_tensor* picked;
  };
  /// A graph that is computed again and again.
  struct Standing {
    Standing(const Backends& backends, size_t nodes) : graph(nodes), scheduler(backends, nodes) {}
    Graph graph;
    Scheduler scheduler;
  };

  LoadedModel& m_;
  std::unique_ptr<Selector> selector_;
  int64_t n_;
  int every_;
  QueryRing queries_;
  std::vector<KeptTokens> first_;  ///< by layer
  QueryRing::Content first_queries_;
  std::shared_ptr<const PrefixBlock> block_;
  std::optional<Standing> scoring_;
  std::vector<Settled> settled_;
  std::optional<Standing> gathering_;
  std::vector<ggml_tensor*> ids_;  ///< by layer: [kept, lists] I32; null where all is kept
  uint64_t gathers_into_ = 0;      ///< version of the cache that gathering_ was built for
  int since_ = 0;                  ///< decoded tokens since the last choice
  bool chosen_ = false;            ///< since the beginning, or since rewind() was made good
  bool rewound_ = false;
};

}  // namespace windowkv
