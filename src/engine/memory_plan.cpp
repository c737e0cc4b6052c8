#include "engine/memory_plan.h"

#include <algorithm>

#include "engine/layer_selection.h"
#include "engine/state.h"

namespace windowkv {

MemoryPlan plan_memory(const HParams& hp, int64_t n, const Policy& policy, int64_t reserve,
                       const EngineOptions& options, bool blas) {
  const auto selector = policy.start(prompt_shape(hp, n));
  const int64_t row = kv_token_bytes(hp, options.kv);
  const int64_t full_row = hp.kv_layer_bytes_per_token();
  const int64_t width = std::min<int64_t>(n, options.chunk);
  MemoryPlan plan;
  bool scores = false;
  const int64_t in_flight = layers_in_flight(*selector, hp.n_layer);
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    const int64_t kept = selector->capacity(layer);
    plan.kv_kept += kept * row;
    if (kept < n || options.kv != KvTypes{}) plan.kv_scratch = in_flight * n * full_row;
    scores = scores || selector->decides(layer);
  }
  plan.kv_reserve = reserve * row * hp.n_layer;
  plan.kv_full = n * full_row * hp.n_layer;
  plan.hidden = n * (hp.n_embd + (selector->accumulates() ? hp.n_head : 0)) * 4;
  if (!blas) plan.mask = ((n - 1) / width * width + width) * (width + 1) * 2;
  int64_t activations =
      width * (6 * static_cast<int64_t>(hp.n_embd) + 2 * static_cast<int64_t>(hp.n_ff) + 2 * hp.kv_row()) * 4;
  if (blas) activations += ProductAttention::bytes(hp, n, width);
  // One KV head's keys in float32, its share of the attention, and the scores of all heads.
  const int64_t share = hp.n_head / hp.n_head_kv;
  const int64_t queries = selector->accumulates() ? width : selector->observation();
  const int64_t scoring = scores ? n * (hp.d_head + (queries + 1) * share + int64_t{3} * hp.n_head) * 4 : 0;
  // BLAS widens one weight at a time.
  const int64_t widened =
      blas ? int64_t{4} * hp.n_embd * std::max<int64_t>(hp.n_ff, int64_t{hp.n_head} * hp.d_head) : 0;
  plan.compute = std::max(activations, scoring) + widened;
  return plan;
}

void MemoryPlan::add(const MemoryPlan& other) {
  kv_kept += other.kv_kept;
  kv_reserve += other.kv_reserve;
  kv_scratch = std::max(kv_scratch, other.kv_scratch);
  kv_full = std::max(kv_full, other.kv_full);
  hidden = std::max(hidden, other.hidden);
  mask = std::max(mask, other.mask);
  compute = std::max(compute, other.compute);
}

MemoryPlan Engine::plan(int64_t n, const Policy& policy, int64_t reserve) const {
  return plan_memory(state_->m.hp, n, policy, reserve, state_->options,
                     state_->m.backends->blas() != nullptr);
}

PoolPlan Engine::plan_pool(int64_t kv_bytes, int64_t n, const Policy& policy, int64_t reserve) const {
  const auto memory = plan(n, policy, reserve);
  PoolPlan pool;
  pool.sequence_bytes = memory.kv_kept + memory.kv_reserve;
  pool.scratch_bytes = memory.kv_scratch;
  pool.sequences = std::max<int64_t>(0, (kv_bytes - pool.scratch_bytes) / pool.sequence_bytes);
  return pool;
}

}  // namespace windowkv
