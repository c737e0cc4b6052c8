#pragma once

#include <span>
#include <vector>

#include "engine/layer_selection.h"
#include "engine/product_attention.h"
#include "windowkv/engine.h"

namespace windowkv {

/// Prompts that may share chunks: past this many, products gain nothing by more columns.
constexpr size_t kMostPacked = 16;

/// No fewer nodes than the graph of a chunk through one layer has, where tokens of `prompts` prompts are in
/// it.
inline size_t chunk_nodes(const LoadedModel& m, int64_t chunk, size_t prompts) {
  const auto heads = static_cast<size_t>(m.hp.n_head_kv);
  return 256 + 64 * heads + (m.backends->blas() != nullptr ? ProductAttention::nodes(m.hp, chunk) : 0) +
         (prompts - 1) * (32 + 32 * heads);
}

/// Calls of PrefillOptions::progress.
int64_t prefill_steps(const HParams& hp, int64_t tokens, int64_t chunk);

/// Layer-major prefill: all prompts through one layer, then selection, then the next layer. Fills the
/// targets' caches and returns the logits of each prompt's last position, [n_vocab, prompts].
std::vector<float> run_prefill(LoadedModel& m, Scheduler& scheduler, int64_t chunk,
                               std::span<const std::span<const Token>> prompts, std::span<Target> targets,
                               const PrefillOptions& options);

}  // namespace windowkv
