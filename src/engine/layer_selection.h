#pragma once

#include <functional>

#include "backend/graph.h"
#include "cache/kv_cache.h"
#include "engine/pack.h"
#include "model/loaded_model.h"
#include "windowkv/policy.h"

namespace windowkv {

class Draft;
class Recall;

/// One cache that a prefill fills, and the policy's decisions for it.
struct Target {
  Selector* selector;
  KvCache* cache;
  size_t prompt = 0;         ///< of the pack
  int64_t past = 0;          ///< tokens of the prompt before those in the pack, whose rows are there
  int64_t reserve = 0;       ///< rows for generated tokens
  Recall* recall = nullptr;  ///< what goes on choosing; null if nothing does
  Draft* draft = nullptr;    ///< what chooses once more, after a draft; null if nothing does
  double selection_ms = 0;
  int waiting = 0;  ///< the lowest layer not settled yet
};

/// No fewer tensors than the scoring of one layer has.
size_t scoring_nodes(const HParams& hp);
/// Of all layers, with room for what build_scorings adds beside it.
size_t all_scoring_nodes(const HParams& hp);

/// Layers whose K and V are in full at once while a selector decides: 1, or more where layers wait for ones
/// above them. Layers that have rows (HParams::row_layer) use as many places in turn.
int layers_in_flight(const Selector& selector, const HParams& hp);

/// Whether the rows that a layer's heads need are known only once it is decided, far fewer than they might
/// be: a cache in memory of its own gets them then.
bool capacity_is_late(const Selector& selector, int layer);

/// Whether a cache of these types keeps all n tokens of a layer as prefill computes them, so that the layer
/// needs no scratch.
bool keeps_whole(const Selector& selector, int layer, int64_t n, KvTypes types);

/// Whether the selector scores anything.
bool decides_anywhere(const Selector& selector, int n_layer);

/// Layers that are settled together, and what is picked for them once its graph is computed; null where none
/// decides.
struct SettledLayers {
  int first;
  int last;
  ggml_tensor* picked;
  bool wanted = true;  ///< false: nothing is chosen
};

/// Adds the scoring of all layers behind the prompt. `fill`: gives a layer's view its queries and keys.
/// `wanted`: of layers that are settled together without one of those, none is scored; null: all are.
std::vector<SettledLayers> build_scorings(Graph& graph, const LoadedModel& m, const Selector& selector,
                                          const std::function<void(ggml_context*, LayerView&)>& fill,
                                          const std::function<bool(int layer)>& wanted = nullptr);

/// What every layer keeps by that; no list where nothing is chosen.
std::vector<KeptTokens> choose_settled(std::span<const SettledLayers> settled, Selector& selector);

/// Copies rows of a layer, or each head's part of them where heads keep different tokens, to the end of the
/// first rows of `to`, which may be the same: as many as a head keeps at most, which it returns.
int64_t gather(Scheduler& scheduler, const KvRows& rows, const KeptTokens& kept, const KvRows& to);

/// K and V of all tokens of the target's prompt in a layer.
using RowsOf = std::function<const KvRows&(int layer)>;

/// Once all of the pack has passed through `layer`: asks the target's selector what the layers settled by
/// that keep, and copies it into the target's cache, unless the rows are that cache's own.
void settle_layers(LoadedModel& m, Scheduler& scheduler, const Pack& pack, int layer, const RowsOf& rows_of,
                   Target& target);

}  // namespace windowkv
