#pragma once

#include <memory>

#include "cache/kv_cache.h"
#include "cache/last_queries.h"
#include "model/loaded_model.h"
#include "windowkv/policy.h"

namespace windowkv {

/// Drops rows of a sequence's cache while its answer is decoded, so that it stays as small as Policy::total
/// says: a layer that holds as many keeps what Policy::again chooses of them, as if they were a prompt that
/// ends with the newest tokens. A layer with a sliding window keeps what that shows.
class Eviction {
 public:
  /// What evicts behind a prompt of n tokens; null where the policy sets no total. Throws Error for a policy
  /// that cannot.
  static std::unique_ptr<Eviction> make(LoadedModel& m, const Policy& policy, int64_t n);
  /// The capacity of a layer's cache that would have `rows`.
  static int64_t capacity(const HParams& hp, const Policy& policy, int layer, int64_t rows);

  /// Once the sequence has a cache.
  void attach(KvCache& cache);
  /// Goes on as this, for a copy of its cache.
  std::unique_ptr<Eviction> fork(KvCache& copy) const;

  /// After a decode step: drops rows where it is time to, and says so. `position`: of the next token.
  bool after_step(KvCache& cache, int64_t position);
  /// Whether anything was dropped, so that the end of the prompt cannot be returned to.
  bool dropped() const { return dropped_; }

 private:
  Eviction(LoadedModel& m, std::shared_ptr<const Policy> policy, int64_t total, int64_t observation);
  /// The newest queries, in order: [d_head·n_head, observation].
  ggml_tensor* queries_of(ggml_context* ctx, int layer) const;
  bool is_full(const KvCache& cache, int layer) const;
  void drop(KvCache& cache, int64_t position);

  LoadedModel& m_;
  std::shared_ptr<const Policy> policy_;
  int64_t total_;
  int64_t observation_;
  LastQueries last_;
  LastQueries newest_;  ///< of `observation_` tokens, in a ring
  int64_t taken_ = 0;   ///< tokens whose queries went there
  bool dropped_ = false;
};

}  // namespace windowkv
