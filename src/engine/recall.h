#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "backend/graph.h"
#include "cache/chosen_rows.h"
#include "cache/kv_cache.h"
#include "cache/last_queries.h"
#include "cache/prefix_block.h"
#include "engine/layer_selection.h"
#include "engine/recall_copies.h"
#include "model/loaded_model.h"
#include "windowkv/policy.h"

namespace windowkv {

/// Chooses again, while a sequence is decoded, what its tokens attend to: the last token's queries score the
/// keys of all tokens so far, by the policy that chose first, as if those were a prompt.
///
/// In place, where the CPU computes all layers: the prompt's rows are read in the prefix store, where they
/// lie, and the sequence's cache holds those of generated tokens, and of the prompt's last ones where they
/// are not in the same block of the store. The policy chooses among them too; the newest, fewer than 64 and
/// those since the last choice, are attended to in any case.
///
/// Elsewhere what is chosen of the prompt is copied into the cache, in place of what was there; generated
/// tokens stay behind it.
class Recall {
 public:
  /// What recalls for a prompt of n tokens; null where the policy does not, or has nothing to choose. Throws
  /// Error for a policy that cannot.
  static std::unique_ptr<Recall> make(LoadedModel& m, const Policy& policy, int64_t n);
  /// Whether the rows are read where they lie.
  static bool in_place(const LoadedModel& m);
  /// Tokens of a prompt of n that a sequence holds in its cache, at most, so as not to copy what it reads of
  /// the store. They take memory of each sequence, and more than in the store.
  static int64_t most_in_cache(int64_t n) { return std::max<int64_t>(64, n / 16); }
  /// Whether the policy recalls for a prompt of n tokens.
  static bool wanted(const LoadedModel& m, const Policy& policy, int64_t n);

  /// Goes on as this, for a copy of its cache.
  std::unique_ptr<Recall> fork(KvCache& copy) const;

  /// Where the last token's queries go; those of the prompt's last token at first.
  LastQueries& queries() { return queries_; }
  /// What the layer keeps of the prompt at first, for every layer.
  void starts_with(int layer, KeptTokens kept) { first_[static_cast<size_t>(layer)] = std::move(kept); }
  /// What it kept at first.
  const std::vector<KeptTokens>& first() const { return first_; }
  /// Once the prompt is prefilled: K and V of its first `in_block` tokens, and the cache of the sequence,
  /// which holds the others.
  void attach(std::shared_ptr<const PrefixBlock> block, int64_t in_block, KvCache& cache);
  /// In place: what the layer's tokens attend to now.
  const ChosenRows& rows(int layer) const { return rows_[static_cast<size_t>(layer)]; }

  /// Before a decode step: after rewind(), brings back what was kept first.
  void before_step(const KvCache& cache);
  /// After a decode step: chooses again where it is time to, and says so.
  bool after_step(const KvCache& cache);
  /// Returns to the end of the prompt.
  void rewind();

 private:
  Recall(LoadedModel& m, std::shared_ptr<const Policy> policy, int64_t n, int every);
  void choose(const KvCache& cache);
  /// Adds the scoring of every group of layers that are decided together.
  void build_scoring(const KvCache& cache);
  void use(const KvCache& cache, std::vector<KeptTokens> kept);
  void connect(KvCache& cache);

  LoadedModel& m_;
  std::shared_ptr<const Policy> policy_;
  int64_t n_;         ///< prompt tokens
  int64_t in_block_;  ///< the first of them; the others, and generated tokens, lie in the cache
  int64_t among_;     ///< tokens that the next choice is among: of the prompt, and generated ones
  int every_;
  std::unique_ptr<Selector> selector_;  ///< for among_ tokens
  LastQueries queries_;
  std::vector<KeptTokens> first_;  ///< by layer
  std::vector<float> first_queries_;
  std::shared_ptr<const PrefixBlock> block_;
  std::vector<ChosenRows> rows_;          ///< by layer, in place
  std::unique_ptr<RecallCopies> copies_;  ///< elsewhere
  std::unique_ptr<StandingGraph> scoring_;
  std::vector<SettledLayers> settled_;
  uint64_t scores_ = 0;  ///< version of the cache that scoring_ was built for
  int since_ = 0;        ///< decoded tokens since the last choice
  bool chosen_ = false;  ///< since the beginning, or since rewind() was made good
  bool rewound_ = false;
};

}  // namespace windowkv
