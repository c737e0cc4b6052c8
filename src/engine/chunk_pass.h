#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "backend/graph.h"
#include "engine/pack.h"
#include "engine/prefill_attention.h"
#include "engine/replay.h"
#include "model/loaded_model.h"

namespace windowkv {

/// Positions whose logits are held at once: a vocabulary of 152k takes 78 MB for them.
constexpr int64_t kLogitColumns = 128;

/// Chunks that `tokens` make.
inline int64_t chunks_of(int64_t tokens, int64_t chunk) {
  return (tokens + chunk - 1) / chunk;
}

/// A pack's tokens on their way through the model, chunk by chunk: how they enter it, attend to a layer's
/// rows and leave it as logits.
class ChunkPass {
 public:
  /// `chunk`: most tokens of a graph, no more than there are. `rows`: most that one of them attends to.
  /// Throws Error where the memory is not to be had.
  ChunkPass(LoadedModel& m, Scheduler& scheduler, Pack& pack, int64_t chunk, int64_t rows);

  int64_t chunk() const { return chunk_; }

  /// Hidden states of the pack's tokens [first, first + tokens).
  void embed(int64_t first, std::span<const Token> tokens);

  /// Makes `layer` the one that is computed.
  void go_to(int layer);

  /// What tokens that come later find in a layer.
  struct Behind {
    const KvRows& rows;  ///< of HParams::rows_layer
    int64_t end = 0;     ///< rows that are there; theirs follow, or have where it shares them
    std::span<const int64_t> begins = {};  ///< these two as attend() takes them
    const ReplayMaxima* replayed = nullptr;
    bool output = true;  ///< whether their hidden states are wanted
  };
  /// Adds to the graph the pack's tokens [first, first + count) on their way through the layer.
  void pass(Graph& graph, int layer, int64_t first, int64_t count, const Behind& behind) const;

  /// The same where the layer is recurrent. `runs`: the states of the sequences that they belong to.
  void recur(Graph& graph, int layer, int64_t first, int64_t count,
             std::span<const Family::StateRun> runs) const;

  /// What a layer makes of the pack's tokens [first, first + count), a node that puts it in the place of
  /// their hidden states. `attention`: as Family::finish_layer() takes it.
  ggml_tensor* finish_layer(ggml_context* ctx, int layer, int64_t first, int64_t count,
                            ggml_tensor* attention) const;

  /// The layer's causal attention of q [d_head, n_head, t] over rows [0, first + t), the last t its own:
  /// [d_head·n_head, t] F32. `column`: where q begins in its chunk. `begins`: KvCache::Layer::begins, none
  /// unless takes_begins().
  ggml_tensor* attend(Graph& graph, int layer, ggml_tensor* q, const KvRows& rows, int64_t first,
                      int64_t column, std::span<const int64_t> begins = {}) const;
  /// Adds to the sums what rows of a layer without a window receive from q [d_head, n_head, t], as
  /// add_received() of prefill_attention.h. `attended`: what attend() made of it without `begins`, or null.
  void add_received(Graph& graph, int layer, ggml_tensor* q, const KvRows& rows, int64_t first,
                    const ReceivedSum& received, ggml_tensor* attended) const;
  /// PrefillAttention::log_sums() of what attend() made; null where it was made otherwise.
  ggml_tensor* log_sums(int layer, ggml_tensor* attended) const {
    return attention_ ? PrefillAttention::log_sums(m_.attention(layer), attended) : nullptr;
  }
  /// Whether KV heads may begin at different rows.
  static bool takes_begins(const LoadedModel& m) { return PrefillAttention::takes(*m.backends, m.hp); }

  /// Runs the graph and returns what the last layer's output x [n_embd, t] says: [n_vocab, t].
  std::vector<float> logits(Graph& graph, ggml_tensor* x) const;
  /// The same of each of the pack's tokens, which have passed all layers: [n_vocab] for one after the other.
  void all_logits(const std::function<void(int64_t index, std::span<const float> logits)>& each) const;

 private:
  LoadedModel& m_;
  Scheduler& scheduler_;
  Pack& pack_;
  int64_t chunk_;
  int64_t rows_;
  /// One of the two: how chunks attend.
  std::optional<PrefillAttention> attention_;
  std::map<int64_t, CausalMask> masks_;  ///< by window, on the device of the layer that is computed
};

/// Columns [first, first + count) of a graph's, which belong to the sequence of that state. They leave it
/// there, or in `left`.
inline Family::StateRun state_run(const RecurrentState::Layer& state, int64_t first, int64_t count) {
  return {first, count, state.inputs, state.matrices};
}
inline Family::StateRun state_run(const RecurrentState::Layer& state, const RecurrentState::Layer& left,
                                  int64_t first, int64_t count) {
  return {first, count, state.inputs, state.matrices, left.inputs, left.matrices};
}

/// What finish_layer() takes: attention times its gate, where there is one.
inline ggml_tensor* build_gated(ggml_context* ctx, ggml_tensor* attention, ggml_tensor* gate) {
  return gate != nullptr ? ggml_mul(ctx, attention, gate) : attention;
}

/// No fewer nodes than the graph of a chunk through one layer has, where tokens of `prompts` prompts are in
/// it.
inline size_t chunk_nodes(const LoadedModel& m, size_t prompts) {
  const auto heads = static_cast<size_t>(m.hp.most_heads().n_head_kv);
  return 256 + 64 * heads + (prompts - 1) * (32 + 32 * heads);
}

}  // namespace windowkv
