// What prefill() promises: checks before any work, caches made, prompts packed, what was kept told.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/checks.h"
#include "engine/memory_plan.h"
#include "engine/prefill.h"
#include "engine/state.h"
#include "support/clock.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

void check(std::span<const Token> prompt, const HParams& hp) {
  if (prompt.empty()) throw Error("the prompt is empty");
  check_tokens(prompt, hp);
  if (prompt.size() > INT32_MAX) throw Error("the prompt has more than 2^31 tokens");
}

void check(const PrefillOptions& options) {
  if (options.reserve < 0 || options.reserve > INT32_MAX)
    throw Error(fmt::format("room for {} generated tokens; it must be 0 to {}", options.reserve, INT32_MAX));
}

std::string mib(int64_t bytes) {
  return fmt::format("{:.0f} MiB", std::ceil(static_cast<double>(bytes) / (1 << 20)));
}

/// Requests [first, last) that share chunks: as many that follow each other as one chunk holds.
size_t pack_end(std::span<const PrefillRequest> requests, size_t first, const HParams& hp, int64_t chunk) {
  auto alone = [&](const PrefillRequest& r) {
    return r.policy->start(prompt_shape(hp, static_cast<int64_t>(r.prompt.size())))->accumulates();
  };
  auto tokens = static_cast<int64_t>(requests[first].prompt.size());
  size_t last = first + 1;
  if (alone(requests[first])) return last;
  for (; last < requests.size() && last - first < kMostPacked; ++last) {
    tokens += static_cast<int64_t>(requests[last].prompt.size());
    if (tokens > chunk || alone(requests[last])) break;
  }
  return last;
}

}  // namespace

void Engine::State::check_memory(Prompts prompts, std::span<const Wanted> wanted,
                                 const PrefillOptions& prefill) const {
  const auto& backends = *m.backends;
  for (size_t device = 0; device < backends.device_count(); ++device) {
    const auto& run = backends.layer_runs()[device];
    if (run.count() == 0) continue;
    MemoryPlan all;
    int64_t tokens = 0;
    for (size_t p = 0; p < prompts.size(); ++p) {
      const auto n = static_cast<int64_t>(prompts[p].size());
      tokens += n;
      MemoryPlan memory;
      for (const auto& w : wanted)
        if (w.prompt == p) memory.add(plan(run, n, *w.policy, prefill.reserve));
      all.add_beside(memory);
    }
    const int64_t available = backends.free_memory(device);
    const int64_t set_aside = prefill.pool.memory() ? all.kv_kept + all.kv_reserve : 0;
    if (available >= 0 && all.total() - set_aside > available)
      throw Error(fmt::format(
          "{} of {} tokens needs {} (KV cache {}, hidden states {}, other {}), but {} is free{}; use a "
          "shorter prompt or a smaller budget",
          prompts.size() == 1 ? "a prompt" : fmt::format("a batch of {} prompts", prompts.size()), tokens,
          mib(all.total()), mib(all.peak_kv()), mib(all.hidden), mib(all.mask + all.compute), mib(available),
          place_text(backends, device)));
  }
}

std::vector<float> Engine::State::prefill_pack(Prompts prompts, std::span<const Wanted> wanted,
                                               const PrefillOptions& prefill) {
  const auto start = Clock::now();
  std::vector<std::unique_ptr<Selector>> selectors;
  std::vector<Sequence> next(wanted.size());
  std::vector<Target> targets;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto n = static_cast<int64_t>(prompts[wanted[i].prompt].size());
    selectors.push_back(wanted[i].policy->start(prompt_shape(m.hp, n)));
    std::vector<int64_t> capacities;
    capacities.reserve(static_cast<size_t>(m.hp.n_layer));
    for (int layer = 0; layer < m.hp.n_layer; ++layer)
      capacities.push_back(selectors[i]->capacity(layer) + prefill.reserve);
    next[i].cache =
        std::make_unique<KvCache>(*m.backends, m.hp, options.kv, capacities, prefill.pool.memory());
    targets.push_back({selectors[i].get(), next[i].cache.get(), wanted[i].prompt});
  }
  auto last_logits = run_prefill(m, prefill_scheduler, options.chunk, prompts, targets, prefill);
  const double total = ms_since(start);

  for (size_t i = 0; i < wanted.size(); ++i) {
    auto& sequence = next[i];
    const auto n = static_cast<int64_t>(prompts[wanted[i].prompt].size());
    sequence.prompt_tokens = sequence.position = n;
    sequence.timing = {total, targets[i].selection_ms};
    sequence.groups = selectors[i]->groups();
    sequence.kv_types = options.kv;
    for (int layer = 0; layer < m.hp.n_layer; ++layer) {
      sequence.kept.push_back(sequence.cache->layer(layer).length);
      sequence.bytes.kept += sequence.kept.back() * kv_token_bytes(m.hp, options.kv);
    }
    sequence.bytes.full = n * m.hp.n_layer * m.hp.kv_layer_bytes_per_token();
    sequence.bytes.peak = sequence.cache->meter().peak();
  }
  for (size_t i = 0; i < wanted.size(); ++i) *wanted[i].sequence = std::move(next[i]);
  return last_logits;
}

std::span<const float> Engine::prefill(Sequence& sequence, std::span<const Token> prompt,
                                       const Policy& policy, const PrefillOptions& options) {
  const Policy* only = &policy;
  return prefill(std::span(&sequence, 1), prompt, std::span(&only, 1), options);
}

std::span<const float> Engine::prefill(std::span<Sequence> sequences, std::span<const Token> prompt,
                                       std::span<const Policy* const> policies,
                                       const PrefillOptions& options) {
  if (sequences.empty() || sequences.size() != policies.size())
    throw Error(fmt::format("{} sequences for {} policies", sequences.size(), policies.size()));
  check(prompt, state_->m.hp);
  check(options);
  std::vector<State::Wanted> wanted;
  wanted.reserve(policies.size());
  for (size_t i = 0; i < policies.size(); ++i) wanted.push_back({&sequences[i], policies[i]});
  state_->check_memory(std::span(&prompt, 1), wanted, options);
  return state_->logits = state_->prefill_pack(std::span(&prompt, 1), wanted, options);
}

std::span<const float> Engine::prefill(std::span<const PrefillRequest> requests,
                                       const PrefillOptions& options) {
  const auto& hp = state_->m.hp;
  if (requests.empty()) throw Error("no prompt to prefill");
  if (options.all_logits) throw Error("logits of all positions are available for a single prompt only");
  check(options);
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto& request = requests[i];
    if (request.sequence == nullptr || request.policy == nullptr)
      throw Error("a prompt needs a sequence and a policy");
    const auto earlier = requests.first(i);
    if (std::ranges::find(earlier, request.sequence, &PrefillRequest::sequence) != earlier.end())
      throw Error("a sequence appears twice among the prompts");
    check(request.prompt, hp);
  }

  struct Packed {
    std::vector<std::span<const Token>> prompts;
    std::vector<State::Wanted> wanted;
    int64_t steps;
  };
  std::vector<Packed> packs;
  int64_t steps = 0;
  const int64_t chunk = state_->options.chunk;
  for (size_t first = 0; first < requests.size();) {
    auto& pack = packs.emplace_back();
    int64_t tokens = 0;
    for (const size_t last = pack_end(requests, first, hp, chunk); first < last; ++first) {
      pack.wanted.push_back({requests[first].sequence, requests[first].policy, pack.prompts.size()});
      pack.prompts.push_back(requests[first].prompt);
      tokens += static_cast<int64_t>(requests[first].prompt.size());
    }
    pack.steps = prefill_steps(hp, tokens, chunk);
    steps += pack.steps;
    state_->check_memory(pack.prompts, pack.wanted, options);
  }

  std::vector<float> logits;
  int64_t before = 0;
  auto pack_options = options;
  if (options.progress)
    pack_options.progress = [&](int64_t done, int64_t) { options.progress(before + done, steps); };
  for (const auto& pack : packs) {
    const auto part = state_->prefill_pack(pack.prompts, pack.wanted, pack_options);
    logits.insert(logits.end(), part.begin(), part.end());
    before += pack.steps;
  }
  return state_->logits = std::move(logits);
}

}  // namespace windowkv
