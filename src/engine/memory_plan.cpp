#include "engine/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "cache/kv_type.h"
#include "engine/eviction.h"
#include "engine/layer_selection.h"
#include "engine/pack.h"
#include "engine/recall.h"
#include "engine/sliding.h"
#include "engine/state.h"
#include "policy/observed_attention.h"
#include "policy/top_scores.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

void check_plan(int64_t n, int64_t reserve) {
  if (n < 1 || n > INT32_MAX)
    throw Error(fmt::format("a prompt of {} tokens; it must be 1 to {}", n, INT32_MAX));
  check_reserve(reserve);
}

void check_scored(const Selector& selector, int64_t n, int n_layer) {
  for (int layer = 0; layer < n_layer && n > kMostScores; ++layer)
    if (selector.decides(layer))
      throw Error(
          fmt::format("a prompt of {} tokens; policies that score tokens take up to {}, use full or "
                      "streaming-llm",
                      n, kMostScores));
}

/// Intermediate results of a chunk or of a scoring, and logits; an estimate.
int64_t chunk_bytes(const Backends& backends, const HParams& hp, const LayerRun& run, int64_t width,
                    int64_t scoring, int64_t logit_columns) {
  const bool blas = backends.blas() != nullptr;
  const auto& m = hp.mixture;
  const int64_t inner =
      std::max(2 * int64_t{hp.n_ff}, m.used * (2 * int64_t{m.n_ff} + hp.n_embd) + 2 * int64_t{m.n_ff_shared});
  const auto& net = hp.delta_net;
  const int64_t recurrent = hp.recurrent() ? 4 * net.channels() + 6 * int64_t{net.d_head} * net.heads : 0;
  int64_t activations =
      width * (6 * int64_t{hp.n_embd} + std::max(inner, recurrent) + 2 * hp.kv_row(hp.widest_layer())) * 4;
  if (hp.n_embd_layer > 0) activations += width * (int64_t{hp.n_embd} + int64_t{4} * hp.n_embd_layer) * 4;
  // On the device and once more on the host.
  const int64_t copies = backends.is_cpu(backends.device_of(run.first)) ? 2 : 1;
  const int64_t logits = run.last + 1 == hp.n_layer ? copies * logit_columns * hp.n_vocab * 4 : 0;
  // BLAS widens one weight at a time.
  const auto most = hp.most_heads();
  const int64_t widened =
      blas ? int64_t{4} * hp.n_embd * std::max<int64_t>(hp.n_ff, int64_t{most.n_head} * most.d_head) : 0;
  // Embeddings, which the CPU looks up for a device.
  const int64_t embeddings = backends.cpu_alone() ? 0 : 2 * width * (int64_t{hp.n_embd} + 64) * 4;
  return std::max({activations, scoring, logits}) + widened + embeddings;
}

/// What scoring a prompt of n tokens takes.
int64_t scoring_bytes(const Backends& backends, const HParams& hp, const Selector& selector, int64_t n,
                      int64_t width) {
  // Of all queries one KV head at a time; beside it the scores of all heads.
  const int64_t share = hp.n_head / hp.n_head_kv;
  int64_t attention = observed_attention_bytes(n, hp.d_head, hp.n_head_kv, selector.observation() * share);
  // And a mask of each, in the making of which there are three.
  if (const int64_t stride = selector.stride(); stride > 0 && !PrefillAttention::takes(backends, hp))
    attention = std::max(attention, n * (hp.d_head + width / stride * (share + 3)) * 4);
  return attention + n * int64_t{4} * hp.n_head * 4;
}

/// Windows of different sizes, none among them, that the layers have: each a mask.
int64_t windows_of(const HParams& hp, const LayerRun& run) {
  std::set<int> windows;
  for (int layer = run.first; layer <= run.last; ++layer) windows.insert(hp.attention_of(layer).window);
  return static_cast<int64_t>(windows.size());
}

/// Of a layer the scores of all query heads, twice, and what follows from them for every KV head.
int64_t recall_bytes(const HParams& hp, int64_t n) {
  return n * int64_t{4} * (2 * hp.n_head + 4 * hp.n_head_kv);
}

}  // namespace

void check_reserve(int64_t reserve) {
  if (reserve < 0 || reserve > INT32_MAX)
    throw Error(fmt::format("room for {} generated tokens; it must be 0 to {}", reserve, INT32_MAX));
}

std::string place_text(const Backends& backends, size_t device) {
  if (backends.cpu_alone()) return "";
  return fmt::format(" on {}, {}", backends.name(device), to_string(backends.layer_runs()[device]));
}

void MemoryPlan::add(const MemoryPlan& next) {
  for (auto field : {&MemoryPlan::kv_kept, &MemoryPlan::kv_reserve, &MemoryPlan::kv_states,
                     &MemoryPlan::kv_full, &MemoryPlan::store})
    this->*field += next.*field;
  for (auto field : {&MemoryPlan::kv_scratch, &MemoryPlan::kv_growth, &MemoryPlan::hidden, &MemoryPlan::mask,
                     &MemoryPlan::compute, &MemoryPlan::recall})
    this->*field = std::max(this->*field, next.*field);
}

int64_t MemoryPlan::total() const {
  return kv_kept + kv_reserve + kv_states + store + compute +
         std::max(kv_scratch + hidden + mask, kv_growth + recall);
}

Replays Engine::State::replays_of(std::span<const int64_t> lengths, std::span<const Wanted> wanted) const {
  std::vector<Replay> replays(lengths.size());
  for (const auto& w : wanted)
    add_replay(replays[w.prompt], start_selector(m.hp, *w.policy, lengths[w.prompt])->replay());
  return make_replays(m.vocab.get(), replays, lengths);
}

MemoryPlan Engine::State::plan(const LayerRun& run, std::span<const int64_t> lengths,
                               std::span<const Wanted> wanted, const PrefillOptions& prefill,
                               const StoredPrefix& stored) const {
  const auto& backends = *m.backends;
  const auto& hp = m.hp;
  const size_t device = backends.device_of(run.first);
  const int widest = hp.widest_layer();
  const int64_t scratch_row = kv_token_bytes(hp, KvTypes{}, widest);
  const int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0}) - stored.past;
  const auto replays = replays_of(lengths, wanted);
  const int64_t replayed = tokens_of(replays);
  const int64_t repeated_rows = replay_rows(replays, lengths);
  const int64_t longest = std::max(repeated_rows, std::ranges::max(lengths));
  const int64_t width = std::min<int64_t>(options.chunk, std::max(tokens, longest_replay(replays)));
  auto rounded = [&](KvTypes types, int64_t rows, int layer) {
    return KvArena::rounded_up(backends, hp, types, rows, device, layer);
  };

  MemoryPlan plan;
  int in_flight = 1;
  int64_t scoring = 0;
  std::set<int64_t> strides;
  bool has_moments = false;
  // By prompt and layer: whether some cache keeps all, and needs no scratch.
  std::vector<std::vector<bool>> whole(lengths.size(), std::vector<bool>(static_cast<size_t>(hp.n_layer)));
  for (const auto& w : wanted) {
    const int64_t n = lengths[w.prompt];
    const auto selector = start_selector(hp, *w.policy, n);
    check_scored(*selector, n, hp.n_layer);
    in_flight = std::max(in_flight, layers_in_flight(*selector, hp));
    if (selector->stride() > 0) strides.insert(selector->stride());
    has_moments = has_moments || selector->query_moments();
    const int64_t reserve = Draft::reserve_for(hp, *w.policy, n, prefill.reserve);
    const bool in_store = Recall::in_place(m) && Recall::wanted(m, *w.policy, n);
    int64_t largest = 0;
    int64_t grown = 0;
    for (int layer = run.first; layer <= run.last; ++layer) {
      if (!hp.has_rows(layer)) {
        plan.kv_kept += hp.state_bytes(layer);
        plan.kv_states += hp.state_bytes(layer);
        whole[w.prompt][static_cast<size_t>(layer)] = true;
        continue;
      }
      const int64_t kept = in_store ? 0 : selector->capacity(layer);
      auto bounded = [&](int64_t rows) {
        return rounded(options.kv, Eviction::capacity(hp, *w.policy, layer, rows), layer);
      };
      const int64_t row = kv_token_bytes(hp, options.kv, layer);
      const int64_t capacity = bounded(kept + reserve);
      plan.kv_kept += kept * row;
      plan.kv_reserve += (capacity - kept) * row;
      largest = std::max(largest, capacity * row);
      grown += (bounded(kept + reserve + KvCache::kFirstGrowth) - capacity) * row;
      if (!in_store && keeps_whole(*selector, layer, n, options.kv))
        whole[w.prompt][static_cast<size_t>(layer)] = true;
      if (selector->decides(layer))
        scoring = std::max(scoring, scoring_bytes(backends, hp, *selector, n, width));
    }
    if (in_store) plan.recall = std::max(plan.recall, recall_bytes(hp, n));
    if (Draft::wanted(hp, *w.policy, n)) plan.recall = std::max(plan.recall, scoring);
    plan.kv_growth = std::max(plan.kv_growth, grown + largest);
  }
  for (size_t prompt = 0; prompt < lengths.size(); ++prompt) {
    int in_turn = 0;  // layers that use places of the scratch in turn
    bool all_whole = true;
    for (int layer = run.first; layer <= run.last; ++layer) {
      const int64_t row = kv_token_bytes(hp, KvTypes{}, layer);
      plan.kv_full += hp.full_rows(layer, lengths[prompt]) * row + hp.state_bytes(layer);
      const bool is_whole = whole[prompt][static_cast<size_t>(layer)];
      if (hp.read_above(layer)) {
        if (!is_whole) plan.kv_scratch += rounded(KvTypes{}, lengths[prompt], layer) * row;
      } else if (hp.has_rows(layer)) {
        ++in_turn;
        all_whole = all_whole && is_whole;
      }
    }
    if (!all_whole)
      plan.kv_scratch +=
          std::min(in_flight, in_turn) * rounded(KvTypes{}, lengths[prompt], widest) * scratch_row;
  }
  plan.kv_scratch += rounded(KvTypes{}, repeated_rows, widest) * scratch_row;
  const int64_t received =
      (static_cast<int64_t>(strides.size()) * hp.n_head + (replayed > 0 ? hp.n_head_kv : 0)) * in_flight;
  const int64_t moments = has_moments ? hp.d_head * moment_columns(hp.d_head) * hp.n_head * in_flight : 0;
  plan.hidden = ((tokens + replayed) * hp.n_embd + (tokens + stored.past) * received +
                 moments * static_cast<int64_t>(lengths.size())) *
                4;
  plan.mask = PrefillAttention::takes(backends, hp)
                  ? PrefillAttention::bytes(hp, width)
                  : windows_of(hp, run) * CausalMask::bytes(backends, longest, width);
  const int64_t logit_columns =
      prefill.all_logits ? std::min(tokens, kLogitColumns) : static_cast<int64_t>(lengths.size());
  scoring = std::max(scoring, raise_bytes(hp, replays, width));
  plan.compute = chunk_bytes(backends, hp, run, width, scoring, logit_columns);
  return plan;
}

MemoryPlan Engine::State::plan(const LayerRun& run, int64_t n, const Policy& policy, int64_t reserve) const {
  const Wanted wanted{nullptr, &policy};
  PrefillOptions prefill;
  prefill.reserve = reserve;
  return plan(run, std::span(&n, 1), std::span(&wanted, 1), prefill);
}

MemoryPlan Engine::plan(int64_t n, std::span<const Policy* const> policies,
                        const PrefillOptions& options) const {
  check_plan(n, options.reserve);
  if (policies.empty()) throw Error("there is no policy to plan for");
  std::vector<State::Wanted> wanted;
  wanted.reserve(policies.size());
  for (const auto* policy : policies) wanted.push_back({nullptr, policy});
  auto plan = state_->plan({0, state_->m.hp.n_layer - 1}, std::span(&n, 1), wanted, options);
  if (options.store != nullptr)
    plan.store = options.store->bytes(n);
  else if (state_->drafts_any(std::span(&n, 1), wanted))
    plan.store = Draft::block_bytes(state_->m.hp, n);
  return plan;
}

MemoryPlan Engine::plan(int64_t n, const Policy& policy, int64_t reserve) const {
  const Policy* only = &policy;
  PrefillOptions options;
  options.reserve = reserve;
  return plan(n, std::span(&only, 1), options);
}

std::vector<DevicePlan> Engine::plan_devices(int64_t n, const Policy& policy, int64_t reserve) const {
  check_plan(n, reserve);
  const auto& backends = *state_->m.backends;
  std::vector<DevicePlan> plans;
  for (size_t device = 0; device < backends.device_count(); ++device)
    if (const auto& run = backends.layer_runs()[device]; run.count() > 0)
      plans.push_back({fmt::format("{}, {}", backends.name(device), to_string(run)),
                       state_->plan(run, n, policy, reserve), backends.free_memory(device)});
  return plans;
}

PoolPlan Engine::plan_pool(int64_t kv_bytes, int64_t n, const Policy& policy, int64_t reserve) const {
  if (kv_bytes < 0) throw Error(fmt::format("{} bytes of KV memory; it must be 0 or more", kv_bytes));
  const auto memory = plan(n, policy, reserve);
  PoolPlan pool;
  // A pool is cut in proportion to the devices' layers: the one that holds most a layer needs all to be more.
  const int64_t unit = kv_row_bytes(state_->options.kv, state_->m.hp.kv_unit());
  const auto& hp = state_->m.hp;
  const auto layers = KvMemory::layers_by_device(*state_->m.backends, hp);
  for (size_t device = 0; device < layers.size(); ++device) {
    if (layers[device] == 0) continue;
    const auto part = state_->plan(state_->m.backends->layer_runs()[device], n, policy, reserve);
    const int64_t units = (part.kv_kept - part.kv_states + part.kv_reserve) / unit;
    const int64_t whole = (units * hp.row_layer(hp.n_layer) + layers[device] - 1) / layers[device];
    pool.sequence_bytes = std::max(pool.sequence_bytes, whole * unit);
  }
  pool.scratch_bytes = memory.kv_scratch;
  // A policy may keep nothing, without room for anything.
  if (pool.sequence_bytes > 0)
    pool.sequences = std::max<int64_t>(0, (kv_bytes - pool.scratch_bytes) / pool.sequence_bytes);
  return pool;
}

}  // namespace windowkv
