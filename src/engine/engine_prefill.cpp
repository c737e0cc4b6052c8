// What prefill() promises: checks before any work, prompts packed, caches made, what was kept told.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "backend/free_memory.h"
#include "engine/checks.h"
#include "engine/eviction.h"
#include "engine/layer_selection.h"
#include "engine/memory_plan.h"
#include "engine/prefill.h"
#include "engine/recall.h"
#include "engine/sliding.h"
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

std::string mib(int64_t bytes) {
  return fmt::format("{:.0f} MiB", std::ceil(static_cast<double>(bytes) / (1 << 20)));
}

/// Requests [first, last) that share chunks: as many that follow each other as one chunk holds. One that
/// drafts is alone, so that one prompt's K and V are put aside at a time.
size_t pack_end(std::span<const PrefillRequest> requests, size_t first, int64_t chunk) {
  auto tokens = static_cast<int64_t>(requests[first].prompt.size());
  size_t last = first + 1;
  if (requests[first].policy->draft() > 0) return last;
  for (; last < requests.size() && last - first < kMostPacked; ++last) {
    tokens += static_cast<int64_t>(requests[last].prompt.size());
    if (tokens > chunk || requests[last].policy->draft() > 0) break;
  }
  return last;
}

/// Tokens that a layer's KV heads keep, of all together.
int64_t heads_kept(const KeptTokens& kept, int64_t n_head_kv) {
  int64_t sum = 0;
  for (const auto& list : kept) sum += static_cast<int64_t>(list.size());
  return sum * n_head_kv / static_cast<int64_t>(kept.size());
}

int64_t heads_kept(const KvCache::Layer& layer, int64_t n_head_kv) {
  return layer.length * n_head_kv - std::accumulate(layer.begins.begin(), layer.begins.end(), int64_t{0});
}

/// StoredPrefix::in_block, of a prompt of n tokens.
int64_t tokens_in_block(const LoadedModel& m, const StoredPrefix& stored, int64_t n) {
  if (!Recall::in_place(m) || stored.parts->all().empty()) return n;
  const auto first = std::min(stored.common, stored.parts->all().front().count);
  return n - first <= Recall::most_in_cache(n) ? first : n;
}

/// Where states are to be held that the store lacks.
std::vector<int64_t> new_snapshots(const StoredPrefix& stored) {
  auto positions = stored.snapshot_positions;
  std::erase_if(positions, [&](int64_t position) {
    return std::ranges::binary_search(stored.parts->snapshots(), position, {},
                                      &PrefixParts::Snapshot::tokens);
  });
  return positions;
}

/// Those that are to be held, of what the store has and what was taken.
std::vector<PrefixParts::Snapshot> held_snapshots(const StoredPrefix& stored) {
  std::vector<PrefixParts::Snapshot> held;
  std::ranges::merge(stored.parts->snapshots(), stored.taken, std::back_inserter(held), {},
                     &PrefixParts::Snapshot::tokens, &PrefixParts::Snapshot::tokens);
  std::erase_if(held, [&](const auto& snapshot) {
    return !std::ranges::binary_search(stored.snapshot_positions, snapshot.tokens);
  });
  return held;
}

void check(const PrefillOptions& options, const LoadedModel& m, KvTypes types) {
  check_reserve(options.reserve);
  check_pool(options.pool, *m.backends, types);
}

}  // namespace

std::vector<int64_t> Engine::State::Job::lengths() const {
  std::vector<int64_t> lengths;
  lengths.reserve(prompts.size());
  for (auto prompt : prompts) lengths.push_back(static_cast<int64_t>(prompt.size()));
  return lengths;
}

bool Engine::State::drafts_any(std::span<const int64_t> lengths, std::span<const Wanted> wanted) const {
  return std::ranges::any_of(
      wanted, [&](const Wanted& w) { return Draft::wanted(m.hp, *w.policy, lengths[w.prompt]); });
}

int64_t Engine::State::stored_bytes(const Job& job) const {
  const auto lengths = job.lengths();
  const auto* parts = job.stored.parts;
  if (parts == nullptr)
    return drafts_any(lengths, job.wanted) ? Draft::block_bytes(m.hp, lengths.front()) : 0;
  if (parts->options().place != PrefixStoreOptions::Place::kMemory) return 0;
  return static_cast<int64_t>(
      PrefixBlock::bytes(m.hp, parts->options().types, lengths.front() - job.stored.common) +
      new_snapshots(job.stored).size() * StateSnapshot::bytes(m.hp));
}

StoredPrefix Engine::State::match(PrefixStore& store, std::span<const Token> prompt,
                                  std::span<const Policy* const> policies, int64_t expected_common) const {
  StoredPrefix stored;
  stored.parts = &store.parts();
  const auto& of = stored.parts->hparams();
  if (of.fingerprint != m.hp.fingerprint || of.n_vocab != m.hp.n_vocab)
    throw Error("the prefix store was made for another model");
  const auto n = static_cast<int64_t>(prompt.size());
  stored.common = stored.past = store.common_prefix(prompt);
  for (const auto* policy : policies) {
    const auto selector = start_selector(m.hp, *policy, n);
    stored.past = selector->needs_all_queries()
                      ? 0
                      : std::min(stored.past, n - std::max<int64_t>(1, selector->observation()));
  }
  if (!m.hp.recurrent()) return stored;
  const auto* last = stored.parts->last_snapshot(stored.past);
  stored.past = last != nullptr ? last->tokens : 0;
  if (last != nullptr) stored.start = last->state;
  stored.snapshot_positions =
      stored.parts->snapshot_positions(stored.past, stored.common, n, expected_common);
  return stored;
}

void Engine::State::check_memory(std::span<const Job> jobs, const PrefillOptions& prefill) const {
  const auto& backends = *m.backends;
  for (size_t device = 0; device < backends.device_count(); ++device) {
    const auto& run = backends.layer_runs()[device];
    if (run.count() == 0) continue;
    MemoryPlan all;
    size_t prompts = 0;
    int64_t tokens = 0;
    for (const auto& job : jobs) {
      const auto lengths = job.lengths();
      prompts += lengths.size();
      tokens = std::accumulate(lengths.begin(), lengths.end(), tokens);
      all.add(plan(run, lengths, job.wanted, prefill, job.stored));
      // A store is there for one, and what is put aside goes before the next.
      if (backends.is_cpu(device)) all.store = std::max(all.store, stored_bytes(job));
    }
    // What was set aside is there; states never lie in it.
    if (prefill.pool.memory()) {
      all.kv_kept = all.kv_states;
      all.kv_reserve = all.kv_growth = 0;
    }
    const int64_t available = backends.free_memory(device);
    if (available >= 0 && all.total() > available)
      throw Error(fmt::format(
          "{} of {} tokens needs {} (KV cache {}, hidden states {}, other {}), but {} is free{}; use a "
          "shorter prompt or a smaller budget",
          prompts == 1 ? "a prompt" : fmt::format("a batch of {} prompts", prompts), tokens, mib(all.total()),
          mib(all.peak_kv()), mib(all.hidden), mib(all.store + all.mask + all.compute), mib(available),
          place_text(backends, device)));
  }
  for (const auto& job : jobs)
    if (const int64_t bytes = stored_bytes(job), available = free_system_memory();
        available >= 0 && bytes > available)
      throw Error(fmt::format("{} needs {}, but {} is free; use {}",
                              job.stored.parts != nullptr ? "the prefix store" : "drafting an answer",
                              mib(bytes), mib(available),
                              job.stored.parts != nullptr ? "a file or a smaller type" : "a shorter prompt"));
}

void Engine::State::prepare(std::span<Job> jobs, const PrefillOptions& prefill) const {
  WithoutRoom without_room;
  size_t index = 0;
  for (auto& job : jobs) {
    const auto start = Clock::now();
    job.next.resize(job.wanted.size());
    if (job.stored.parts != nullptr)
      job.stored.in_block = tokens_in_block(m, job.stored, job.lengths().front());
    for (size_t i = 0; i < job.wanted.size(); ++i, ++index) {
      const auto& [sequence, policy, prompt] = job.wanted[i];
      job.selectors.push_back(start_selector(m.hp, *policy, job.lengths()[prompt]));
      const int64_t n = job.lengths()[prompt];
      job.next[i].recall = Recall::make(m, *policy, n);
      if (job.next[i].recall && job.stored.parts == nullptr)
        throw Error("a policy that chooses again needs a prefix store");
      job.next[i].eviction = Eviction::make(m, *policy, n);
      job.drafts.push_back(Draft::make(m, *policy, n));
      const int64_t reserve = Draft::reserve_for(m.hp, *policy, n, prefill.reserve);
      const bool in_store = job.next[i].recall != nullptr && Recall::in_place(m);
      std::vector<int64_t> capacities;
      capacities.reserve(static_cast<size_t>(m.hp.n_layer));
      for (int layer = 0; layer < m.hp.n_layer; ++layer) {
        const bool later = !prefill.pool.memory() && capacity_is_late(*job.selectors[i], layer);
        const int64_t kept = in_store ? n - job.stored.in_block
                             : later  ? 0
                                      : job.selectors[i]->capacity(layer);
        capacities.push_back(m.hp.has_rows(layer) ? Eviction::capacity(m.hp, *policy, layer, kept + reserve)
                                                  : 0);
      }
      without_room.collect(index, [&] {
        job.next[i].cache =
            std::make_unique<KvCache>(*m.backends, m.hp, options.kv, capacities, prefill.pool.memory());
        if (job.next[i].eviction) job.next[i].eviction->attach(*job.next[i].cache);
      });
    }
    job.replays = replays_of(job.lengths(), job.wanted);
    job.setup_ms = ms_since(start);
  }
  without_room.check("sequences");
  for (auto& job : jobs) {
    auto& stored = job.stored;
    if (stored.parts == nullptr) continue;
    stored.parts->cut(stored.common);
    if (const int64_t missing = job.lengths().front() - stored.common; missing > 0)
      stored.added = stored.parts->make_block(missing);
    for (const int64_t position : new_snapshots(stored))
      stored.taken.push_back({position, stored.parts->make_snapshot()});
  }
}

void Engine::State::attach_recall(const StoredPrefix& stored, int64_t n, Sequence& sequence) {
  auto& cache = *sequence.cache;
  if (stored.in_block == n)
    return sequence.recall->attach(merged_block(prefill_scheduler, *stored.parts), n, cache);
  for (int layer = 0; layer < m.hp.n_layer; ++layer) {
    if (!m.hp.has_rows(layer)) continue;
    restore_rows(prefill_scheduler, *stored.parts, layer, stored.in_block, n, cache.layer(layer).rows);
    cache.layer(layer).length = cache.layer(layer).prompt = n - stored.in_block;
  }
  sequence.recall->attach(stored.parts->all().front().block, stored.in_block, cache);
}

void Engine::State::draft_answer(Job& job, size_t index, std::span<const float> last_logits,
                                 const PrefillOptions& prefill) {
  auto& sequence = job.next[index];
  auto& draft = *job.drafts[index];
  const auto n_vocab = static_cast<size_t>(m.hp.n_vocab);
  last_logits = last_logits.subspan(job.wanted[index].prompt * n_vocab, n_vocab);
  auto token = static_cast<Token>(std::ranges::max_element(last_logits) - last_logits.begin());
  sequence.cache->queries = &draft.last();
  for (int i = 0; i < draft.tokens(); ++i) {
    if (prefill.cancelled && prefill.cancelled()) throw Cancelled();
    const Step next{&sequence, token};
    step(std::span(&next, 1), DecodeGraph::Result::kGreedy);
    draft.take();
    ggml_backend_tensor_get(decode_graph->result(), &token, 0, sizeof token);
    if (m.vocab && m.vocab->is_end(token)) break;
  }
  sequence.cache->queries = nullptr;
  sequence.rewind();
  const auto block = job.stored.parts != nullptr ? merged_block(prefill_scheduler, *job.stored.parts)
                                                 : std::shared_ptr<const PrefixBlock>(job.stored.added);
  draft.choose(*block, *sequence.cache);
}

std::vector<float> Engine::State::run(Job& job, const PrefillOptions& prefill) {
  const auto start = Clock::now();
  const auto lengths = job.lengths();
  std::vector<Target> targets;
  for (size_t i = 0; i < job.wanted.size(); ++i)
    targets.push_back({job.selectors[i].get(), job.next[i].cache.get(), job.wanted[i].prompt, job.stored.past,
                       prefill.reserve, job.next[i].recall.get(), job.drafts[i].get()});
  if (job.stored.parts == nullptr && drafts_any(lengths, job.wanted))
    job.stored.added = Draft::make_block(m.hp, lengths.front());
  auto last_logits = run_prefill(m, prefill_scheduler, options.chunk, job.prompts, job.replays, targets,
                                 job.stored, prefill);
  if (job.stored.added && job.stored.parts != nullptr)
    job.stored.parts->append(job.stored.added,
                             job.prompts.front().subspan(static_cast<size_t>(job.stored.common)));
  if (job.stored.parts != nullptr) job.stored.parts->set_snapshots(held_snapshots(job.stored));
  for (auto& sequence : job.next)
    if (sequence.recall) attach_recall(job.stored, lengths.front(), sequence);
  for (size_t i = 0; i < job.wanted.size(); ++i) {
    auto& sequence = job.next[i];
    const int64_t n = lengths[job.wanted[i].prompt];
    sequence.prompt_tokens = sequence.position = n;
    sequence.reused_tokens = job.stored.past;
    if (job.drafts[i]) {
      const auto draft_start = Clock::now();
      draft_answer(job, i, last_logits, prefill);
      targets[i].selection_ms += ms_since(draft_start);
    }
    sequence.timing = {job.setup_ms + ms_since(start), targets[i].selection_ms};
    sequence.groups = job.drafts[i] ? job.drafts[i]->groups() : job.selectors[i]->groups();
    sequence.kv_types = options.kv;
    sequence.reads_store = sequence.cache->chosen != nullptr;
    const auto types = sequence.reads_store ? job.stored.parts->options().types : options.kv;
    int64_t all_heads = 0;
    for (int layer = 0; layer < m.hp.n_layer; ++layer) {
      const int64_t row = kv_token_bytes(m.hp, types, layer);
      const int64_t n_head_kv = m.hp.heads(layer).n_head_kv;
      const int64_t heads = sequence.reads_store
                                ? heads_kept(sequence.recall->first()[static_cast<size_t>(layer)], n_head_kv)
                                : heads_kept(sequence.cache->layer(layer), n_head_kv);
      sequence.bytes.kept += heads * (row / n_head_kv);
      if (!sequence.reads_store) sequence.bytes.padding += sequence.cache->layer(layer).length * row;
      if (m.hp.slides(layer)) {
        sequence.kept.push_back(heads / n_head_kv);
        continue;
      }
      // Whole tokens, which over all layers come to what the heads keep.
      const int64_t before = all_heads / n_head_kv;
      all_heads += heads;
      sequence.kept.push_back(all_heads / n_head_kv - before);
    }
    sequence.bytes.padding = std::max<int64_t>(0, sequence.bytes.padding - sequence.bytes.kept);
    sequence.bytes.kept += m.hp.state_bytes();
    sequence.bytes.full = m.hp.state_bytes();
    for (int layer = 0; layer < m.hp.n_layer; ++layer)
      sequence.bytes.full +=
          m.hp.full_rows(layer, n) * kv_token_bytes(m.hp, sequence.reads_store ? types : KvTypes{}, layer);
    sequence.bytes.peak = sequence.cache->meter().peak();
  }
  job.stored.added.reset();
  for (size_t i = 0; i < job.wanted.size(); ++i) *job.wanted[i].sequence = std::move(job.next[i]);
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
  check(options, state_->m, state_->options.kv);
  State::Job job;
  job.prompts.push_back(prompt);
  for (size_t i = 0; i < policies.size(); ++i) job.wanted.push_back({&sequences[i], policies[i]});
  if (options.store != nullptr)
    job.stored = state_->match(*options.store, prompt, policies, options.expected_common);
  state_->check_memory(std::span(&job, 1), options);
  state_->prepare(std::span(&job, 1), options);
  return state_->logits = state_->run(job, options);
}

std::span<const float> Engine::prefill(std::span<const PrefillRequest> requests,
                                       const PrefillOptions& options) {
  const auto& hp = state_->m.hp;
  if (requests.empty()) throw Error("no prompt to prefill");
  if (options.all_logits) throw Error("logits of all positions are available for a single prompt only");
  if (options.store != nullptr) throw Error("a prefix store serves a single prompt only");
  check(options, state_->m, state_->options.kv);
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto& request = requests[i];
    if (request.sequence == nullptr || request.policy == nullptr)
      throw Error("a prompt needs a sequence and a policy");
    const auto earlier = requests.first(i);
    if (std::ranges::find(earlier, request.sequence, &PrefillRequest::sequence) != earlier.end())
      throw Error("a sequence appears twice among the prompts");
    check(request.prompt, hp);
  }

  std::vector<State::Job> jobs;
  const int64_t chunk = state_->options.chunk;
  for (size_t first = 0; first < requests.size();) {
    auto& job = jobs.emplace_back();
    for (const size_t last = pack_end(requests, first, chunk); first < last; ++first) {
      job.wanted.push_back({requests[first].sequence, requests[first].policy, job.prompts.size()});
      job.prompts.push_back(requests[first].prompt);
    }
  }
  state_->check_memory(jobs, options);
  state_->prepare(jobs, options);
  std::vector<int64_t> steps;
  for (const auto& job : jobs) {
    const auto lengths = job.lengths();
    steps.push_back(prefill_steps(hp, std::accumulate(lengths.begin(), lengths.end(), int64_t{0}),
                                  job.replays, chunk, options));
  }
  const int64_t all_steps = std::accumulate(steps.begin(), steps.end(), int64_t{0});

  std::vector<float> logits;
  int64_t before = 0;
  auto job_options = options;
  if (options.progress)
    job_options.progress = [&](int64_t done, int64_t) { options.progress(before + done, all_steps); };
  for (size_t i = 0; i < jobs.size(); ++i) {
    const auto part = state_->run(jobs[i], job_options);
    logits.insert(logits.end(), part.begin(), part.end());
    before += steps[i];
  }
  return state_->logits = std::move(logits);
}

}  // namespace windowkv
