#include "engine/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/layer_selection.h"
#include "engine/pack.h"
#include "engine/state.h"
#include "policy/observed_attention.h"

namespace windowkv {

namespace {

/// What prefilling n tokens takes of the layers of `run`, which are one device's.
MemoryPlan plan_memory(const Backends& backends, const HParams& hp, const LayerRun& run, int64_t n,
                       const Policy& policy, int64_t reserve, const EngineOptions& options) {
  const size_t device = backends.device_of(run.first);
  const bool blas = backends.blas() != nullptr;
  const auto selector = policy.start(prompt_shape(hp, n));
  const int64_t row = kv_token_bytes(hp, options.kv);
  const int64_t full_row = hp.kv_layer_bytes_per_token();
  const int64_t width = std::min<int64_t>(n, options.chunk);
  MemoryPlan plan;
  bool scores = false;
  const int64_t scratch_rows = KvArena::rounded_up(backends, hp, KvTypes{}, n, device);
  const int64_t in_flight = std::min(layers_in_flight(*selector, hp.n_layer), run.count());
  for (int layer = run.first; layer <= run.last; ++layer) {
    const int64_t kept = selector->capacity(layer);
    plan.kv_kept += kept * row;
    plan.kv_reserve += (KvArena::rounded_up(backends, hp, options.kv, kept + reserve, device) - kept) * row;
    if (kept < n || options.kv != KvTypes{}) plan.kv_scratch = in_flight * scratch_rows * full_row;
    scores = scores || selector->decides(layer);
  }
  plan.kv_full = n * full_row * run.count();
  plan.hidden = n * (hp.n_embd + (selector->accumulates() ? hp.n_head : 0)) * 4;
  plan.mask = blas ? ProductAttention::result_bytes(hp, width) : CausalMask::bytes(backends, n, width);
  int64_t activations =
      width * (6 * static_cast<int64_t>(hp.n_embd) + 2 * static_cast<int64_t>(hp.n_ff) + 2 * hp.kv_row()) * 4;
  if (blas) activations += ProductAttention::bytes(hp, n, width);
  // Of all queries one KV head at a time; beside it the scores of all heads.
  const int64_t share = hp.n_head / hp.n_head_kv;
  const int64_t attention =
      selector->accumulates()
          ? n * (hp.d_head + width * share) * 4
          : observed_attention_bytes(n, hp.d_head, hp.n_head_kv, selector->observation() * share);
  const int64_t scoring = scores ? attention + n * int64_t{4} * hp.n_head * 4 : 0;
  // BLAS widens one weight at a time.
  const int64_t widened =
      blas ? int64_t{4} * hp.n_embd * std::max<int64_t>(hp.n_ff, int64_t{hp.n_head} * hp.d_head) : 0;
  plan.compute = std::max(activations, scoring) + widened;
  return plan;
}

}  // namespace

std::string place_text(const Backends& backends, size_t device) {
  if (backends.cpu_alone()) return "";
  return fmt::format(" on {}, {}", backends.name(device), to_string(backends.layer_runs()[device]));
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

void MemoryPlan::add_beside(const MemoryPlan& other) {
  for (auto field : {&MemoryPlan::kv_kept, &MemoryPlan::kv_reserve, &MemoryPlan::kv_scratch,
                     &MemoryPlan::kv_full, &MemoryPlan::hidden, &MemoryPlan::mask, &MemoryPlan::compute})
    this->*field += other.*field;
}

MemoryPlan Engine::State::plan(const LayerRun& run, int64_t n, const Policy& policy, int64_t reserve) const {
  return plan_memory(*m.backends, m.hp, run, n, policy, reserve, options);
}

MemoryPlan Engine::plan(int64_t n, const Policy& policy, int64_t reserve) const {
  return state_->plan({0, state_->m.hp.n_layer - 1}, n, policy, reserve);
}

std::vector<DevicePlan> Engine::plan_devices(int64_t n, const Policy& policy, int64_t reserve) const {
  const auto& backends = *state_->m.backends;
  std::vector<DevicePlan> plans;
  for (size_t device = 0; device < backends.device_count(); ++device)
    if (const auto& run = backends.layer_runs()[device]; run.count() > 0)
      plans.push_back({fmt::format("{}, {}", backends.name(device), to_string(run)),
                       state_->plan(run, n, policy, reserve), backends.free_memory(device)});
  return plans;
}

PoolPlan Engine::plan_pool(int64_t kv_bytes, int64_t n, const Policy& policy, int64_t reserve) const {
  const auto memory = plan(n, policy, reserve);
  PoolPlan pool;
  // A pool is cut in proportion to the devices' layers: the one that holds most a layer needs all to be more.
  const int64_t row = kv_token_bytes(state_->m.hp, state_->options.kv);
  for (const auto& run : state_->m.backends->layer_runs()) {
    if (run.count() == 0) continue;
    const auto part = state_->plan(run, n, policy, reserve);
    const int64_t rows = (part.kv_kept + part.kv_reserve) / row;
    const int64_t whole = (rows * state_->m.hp.n_layer + run.count() - 1) / run.count();
    pool.sequence_bytes = std::max(pool.sequence_bytes, whole * row);
  }
  pool.scratch_bytes = memory.kv_scratch;
  // Nothing is asked to be held for a prompt of no tokens without room for any.
  if (pool.sequence_bytes > 0)
    pool.sequences = std::max<int64_t>(0, (kv_bytes - pool.scratch_bytes) / pool.sequence_bytes);
  return pool;
}

}  // namespace windowkv
