#pragma once

#include <memory>
#include <vector>

#include "cache/kv_cache.h"
#include "cache/last_queries.h"
#include "cache/prefix_block.h"
#include "model/loaded_model.h"
#include "windowkv/policy.h"

namespace windowkv {

/// A draft answer (Policy::draft): collects the queries of its tokens behind those of the prompt's last ones,
/// and chooses with them, once, what the cache keeps instead of the first choice.
class Draft {
 public:
  /// For a prompt of n tokens; null where the policy drafts nothing, or there is nothing to choose.
  static std::unique_ptr<Draft> make(LoadedModel& m, const Policy& policy, int64_t n);
  static bool wanted(const HParams& hp, const Policy& policy, int64_t n);
  /// Rows for generated tokens, where there are to be `reserve`: the draft's are there before those.
  static int64_t reserve_for(const HParams& hp, const Policy& policy, int64_t n, int64_t reserve);
  /// Bytes of K and V that are put aside for it, where no prefix store has them.
  static int64_t block_bytes(const HParams& hp, int64_t n);
  static std::shared_ptr<PrefixBlock> make_block(const HParams& hp, int64_t n);

  /// Tokens to draft.
  int tokens() const { return tokens_; }
  /// The prompt's last tokens whose queries count.
  int64_t observed() const { return observed_; }
  /// Where theirs of a layer go: [d_head·n_head, observed()].
  ggml_tensor* observed_of(ggml_context* ctx, int layer) const;
  /// Where a decoded token's go.
  LastQueries& last() { return last_; }
  /// Once they are there: adds the token to the draft.
  void take();

  /// Chooses among the prompt's tokens, whose K and V the block has, and copies what is chosen over the
  /// cache's rows of the prompt.
  void choose(const PrefixBlock& block, const KvCache& cache);
  /// What was kept, once it is chosen.
  std::vector<GroupSelection> groups() const { return selector_->groups(); }

 private:
  Draft(LoadedModel& m, const Policy& policy, int64_t n);

  LoadedModel& m_;
  int64_t n_;
  int tokens_;
  std::unique_ptr<Selector> selector_;
  int64_t observed_;
  LastQueries last_;
  LastQueries all_;  ///< the prompt's, then the draft's
  int64_t taken_ = 0;
};

}  // namespace windowkv
