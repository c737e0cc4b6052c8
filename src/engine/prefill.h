#pragma once

#include <span>
#include <vector>

#include "cache/prefix_parts.h"
#include "engine/chunk_pass.h"
#include "engine/layer_selection.h"
#include "engine/replay.h"
#include "windowkv/engine.h"

namespace windowkv {

/// Prompts that may share chunks: past this many, products gain nothing by more columns.
constexpr size_t kMostPacked = 16;

/// What the prefill of a prompt reads from a prefix store, and what it adds to it.
struct StoredPrefix {
  PrefixParts* parts = nullptr;        ///< null: no store
  int64_t past = 0;                    ///< the prompt's first tokens, whose rows are read and not computed
  int64_t common = 0;                  ///< the prompt's first tokens that the store has
  std::shared_ptr<PrefixBlock> added;  ///< for the rows of the others; null where there are none, or nobody
                                       ///< asks for them
  /// What recurrent layers begin with; null where past is 0, or there are none.
  std::shared_ptr<const StateSnapshot> start;
  /// Numbers of tokens after which the store is to hold their states, and those of them that are taken on the
  /// way; both ascending.
  std::vector<int64_t> snapshot_positions;
  std::vector<PrefixParts::Snapshot> taken;
  /// The prompt's first tokens that are read in the store's first block by a sequence that chooses again: all
  /// of them, for which its parts are merged, or all but a few, which then lie in the sequence's cache, so
  /// that the block is shared with whoever else reads it.
  int64_t in_block = 0;
};

/// Calls of PrefillOptions::progress: for prompts of so many tokens in all, and what is repeated of them.
int64_t prefill_steps(const HParams& hp, int64_t tokens, const Replays& replays, int64_t chunk,
                      const PrefillOptions& options);

/// Layer-major prefill: all prompts through one layer, then selection, then the next layer. Fills the
/// targets' caches and stored.added, and returns the logits of each prompt's last position, [n_vocab,
/// prompts]. With a store there is one prompt. `replays`: what the targets have repeated.
std::vector<float> run_prefill(LoadedModel& m, Scheduler& scheduler, int64_t chunk,
                               std::span<const std::span<const Token>> prompts, const Replays& replays,
                               std::span<Target> targets, const StoredPrefix& stored,
                               const PrefillOptions& options);

}  // namespace windowkv
