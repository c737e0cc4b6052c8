#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "backend/graph.h"
#include "cache/kv_cache.h"
#include "engine/decode_graph.h"
#include "engine/product_attention.h"
#include "model/loaded_model.h"
#include "windowkv/engine.h"

namespace windowkv {

/// No fewer nodes than the graph of a chunk of a prompt through one layer has.
inline size_t chunk_nodes(const LoadedModel& m, int64_t chunk) {
  return 256 + 64 * static_cast<size_t>(m.hp.n_head_kv) +
         (m.backends->blas() != nullptr ? ProductAttention::nodes(m.hp, chunk) : 0);
}

struct Engine::State {
  State(const Model& model, const EngineOptions& engine_options)
      : m(model.loaded()),
        options(engine_options),
        prefill_scheduler(*m.backends, std::max<size_t>(4096, chunk_nodes(m, options.chunk)),
                          Products::kBlas) {}

  /// What prefilling n tokens takes of the layers of `run`, from sizes alone.
  MemoryPlan plan(const LayerRun& run, int64_t n, const Policy& policy, int64_t reserve) const;

  /// Decodes one token of each; decode_graph then holds the result, column c that of steps[columns.order[c]].
  void step(std::span<const Step> steps, DecodeGraph::Result result);

  LoadedModel& m;
  EngineOptions options;
  Scheduler prefill_scheduler;
  size_t decode_nodes = 0;  ///< that decode_scheduler takes
  std::unique_ptr<Scheduler> decode_scheduler;
  DeviceTraffic earlier_decode_traffic;       ///< of schedulers that were too small
  std::unique_ptr<DecodeGraph> decode_graph;  ///< allocated in decode_scheduler
  int64_t graphs_built = 0;
  /// The step's columns; kept so that a token allocates nothing.
  struct {
    std::vector<size_t> order;  ///< indices of steps
    std::vector<const KvCache*> caches;
    std::vector<int32_t> tokens;
    std::vector<int32_t> positions;
  } columns;
  std::vector<float> logits;
  std::vector<Token> ids;
};

}  // namespace windowkv
