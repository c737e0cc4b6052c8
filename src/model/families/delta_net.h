#pragma once

#include "model/family.h"

namespace windowkv {

/// Gated delta nets, the recurrent layers of Qwen3-Next, Qwen3.5 and later.

/// What a file says of them: HParams::delta_net, and AttentionSpec::recurrent of the layers, by a list or all
/// but the last of each period. Throws Error for sizes that cannot be.
void read_delta_net(const GgufFile& file, HParams& hp);

/// Asks for a layer's tensors.
void declare_delta_net(WeightLoader& loader, const HParams& hp, int layer, LayerWeights& w);

/// Hidden states h [n_embd, t] F32 behind their norm → what the layer's wo takes, [d_head·heads, t] F32.
/// `runs`: as Family::recur() takes them.
ggml_tensor* delta_net(Graph& graph, const HParams& hp, const LayerWeights& w, ggml_tensor* h,
                       std::span<const Family::StateRun> runs);

/// No fewer nodes than that adds to a graph, for so many runs.
constexpr size_t delta_net_nodes(size_t runs) {
  return 32 + 28 * runs;
}

}  // namespace windowkv
