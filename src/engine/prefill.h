#pragma once

#include <span>
#include <vector>

#include "engine/chunk_pass.h"
#include "engine/layer_selection.h"
#include "windowkv/engine.h"

namespace windowkv {

/// Prompts that may share chunks: past this many, products gain nothing by more columns.
constexpr size_t kMostPacked = 16;

/// Calls of PrefillOptions::progress.
int64_t prefill_steps(const HParams& hp, int64_t tokens, int64_t chunk);

/// Layer-major prefill: all prompts through one layer, then selection, then the next layer. Fills the
/// targets' caches and returns the logits of each prompt's last position, [n_vocab, prompts].
std::vector<float> run_prefill(LoadedModel& m, Scheduler& scheduler, int64_t chunk,
                               std::span<const std::span<const Token>> prompts, std::span<Target> targets,
                               const PrefillOptions& options);

}  // namespace windowkv
