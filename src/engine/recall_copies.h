#pragma once

#include <memory>
#include <vector>

#include "backend/graph.h"
#include "cache/kv_cache.h"
#include "cache/prefix_block.h"
#include "windowkv/policy.h"

namespace windowkv {

/// A graph that is computed again and again.
struct StandingGraph {
  StandingGraph(const Backends& backends, size_t nodes) : graph(nodes), scheduler(backends, nodes) {}
  Graph graph;
  Scheduler scheduler;
};

/// Copies chosen tokens of a prefix store into a cache, in place of what it held of the prompt, which stays
/// as many rows.
class RecallCopies {
 public:
  /// `first`: what each layer keeps at first, of n tokens.
  RecallCopies(const Backends& backends, const HParams& hp, const PrefixBlock& block,
               const std::vector<KeptTokens>& first, int64_t n)
      : backends_(backends), hp_(hp), block_(block), first_(first), n_(n) {}

  /// By layer.
  void copy(const KvCache& cache, std::vector<KeptTokens> kept);

 private:
  void build(const KvCache& cache);

  const Backends& backends_;
  const HParams& hp_;
  const PrefixBlock& block_;
  const std::vector<KeptTokens>& first_;
  int64_t n_;
  std::unique_ptr<StandingGraph> graph_;
  std::vector<ggml_tensor*> ids_;  ///< by layer: [kept, lists] I32; null where all is kept
  uint64_t version_ = 0;           ///< of the cache that the graph was built for
};

}  // namespace windowkv
