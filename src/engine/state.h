#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "backend/graph.h"
#include "cache/kv_cache.h"
#include "model/loaded_model.h"
#include "windowkv/engine.h"

namespace windowkv {

/// The graph that decodes one token of one cache; reused while the padded lengths hold.
struct DecodeGraph {
  /// Layers whose caches have the same length share slot and mask.
  struct LengthClass {
    int first_layer;    ///< one of them
    int64_t visible;    ///< cache rows attention reads
    ggml_tensor* slot;  ///< [1] I64: the row the token's K and V go to
    ggml_tensor* mask;  ///< [visible, 1] F16
  };
  Graph graph{16384};
  uint64_t cache_version = 0;
  std::vector<LengthClass> classes;
  ggml_tensor* token = nullptr;     ///< [1] I32
  ggml_tensor* position = nullptr;  ///< [1] I32
  ggml_tensor* logits = nullptr;    ///< [n_vocab] F32
};

struct Engine::State {
  State(const Model& model, const EngineOptions& engine_options)
      : m(model.loaded()),
        options(engine_options),
        prefill_scheduler(*m.backends),
        decode_scheduler(*m.backends, 16384) {}

  LoadedModel& m;
  EngineOptions options;
  Scheduler prefill_scheduler;
  Scheduler decode_scheduler;
  std::unique_ptr<DecodeGraph> decode_graph;
  std::vector<float> logits;
};

}  // namespace windowkv
