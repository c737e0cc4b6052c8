#include "server/batcher.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/recall.h"
#include "generate/kept_shares.h"
#include "server/logprobs.h"
#include "support/bytes_text.h"
#include "support/clock.h"
#include "windowkv/error.h"

namespace windowkv::server {

namespace {

/// Tokens that may be read while a longer prompt waits, half-read: they take no longer than one of its steps.
constexpr int64_t kShortPrompt = 512;
/// The least that is read at once: each step reads a layer's weights.
constexpr int64_t kLeastStep = 32;
/// Of the time that a step of reading may take, what is planned: its speed varies.
constexpr double kPlannedShare = 0.85;
/// To draw a token takes milliseconds, but for grammars with many ways to go on.
constexpr double kSlowestDrawMs = 2000;
/// Prompts that are read together, as many as the engine packs.
constexpr size_t kMostTogether = 16;

GenerateOptions options_of(const Job& job, int choice) {
  auto options = job.generate;
  if (choice > 0 && options.sampling.seed != 0xFFFFFFFFu)
    options.sampling.seed += static_cast<uint32_t>(choice);
  return options;
}

/// Pieces of equal share, in percent, together.
std::vector<std::pair<std::string, double>> kept_text_of(const Vocab& vocab, const Job& job,
                                                         const Sequence& sequence) {
  const auto layers = kept_layers(sequence);
  if (layers.empty()) return {};
  std::vector<std::pair<std::string, double>> pieces;
  for (const auto& unit : kept_units(vocab, job.prompt, overall_shares(layers))) {
    const double share = std::round(unit.share * 100) / 100;
    if (pieces.empty() || pieces.back().second != share) pieces.emplace_back("", share);
    pieces.back().first += unit.text;
  }
  return pieces;
}

}  // namespace

struct Batcher::Started {
  std::shared_ptr<Job> job;
  int64_t committed = 0;
  int left = 0;                                ///< choices that are not complete
  Clock::time_point answering = Clock::now();  ///< since when
  Usage usage;
};

struct Batcher::Running {
  std::shared_ptr<Started> started;
  int choice = 0;
  Sequence sequence;
  Delta delta;  ///< what the next token brings
  std::unique_ptr<Continuation> continuation;
  Clock::time_point last_token = Clock::now();

  Job& job() const { return *started->job; }
  /// Sends what there is.
  void send() {
    if (continuation->done()) delta.finished = continuation->generation().reason;
    if (delta.text.empty() && delta.logprobs.empty() && !delta.finished) return;
    delta.choice = choice;
    job().answer->push(std::exchange(delta, {}));
  }
};

Batcher::Batcher(const Model& model, const BatcherOptions& options, PrefixCache& prefixes, Metrics& metrics)
    : model_(model),
      options_(options),
      prefixes_(prefixes),
      metrics_(metrics),
      engine_(model, options.engine),
      short_engine_(model, options.engine),
      thread_([this] { loop(); }) {}

Batcher::~Batcher() {
  {
    const std::scoped_lock lock(mutex_);
    draining_ = stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Batcher::submit(std::shared_ptr<Job> job) {
  job->kv_bytes = memory_of(*job, job->generate.max_tokens);
  if (job->kv_bytes > options_.kv_memory)
    throw ApiError(400,
                   fmt::format("the prompt's {} tokens and {} of up to {} need {} of KV cache, more than the "
                               "server's {}; ask for fewer{} tokens or a smaller budget",
                               job->prompt.size(),
                               job->choices > 1 ? fmt::format("{} answers", job->choices) : "an answer",
                               job->generate.max_tokens, bytes_text(job->kv_bytes),
                               bytes_text(options_.kv_memory), job->choices > 1 ? " answers, fewer" : ""),
                   job->choices > 1 ? "n" : "max_tokens", "kv_memory_exceeded");
  {
    const std::scoped_lock lock(mutex_);
    if (draining_) {
      ApiError error(503, "the server is shutting down");
      error.retry_after = 10;
      throw error;
    }
    if (std::ssize(queue_) >= options_.queue)
      throw busy(fmt::format("{} requests are waiting already", queue_.size()));
    queue_.push_back(std::move(job));
    metrics_.waiting = std::ssize(queue_);
  }
  ++metrics_.requests;
  changed_.notify_all();
}

void Batcher::drain(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  changed_.notify_all();
  changed_.wait_for(lock, patience, [&] { return idle_ && queue_.empty(); });
  stopping_ = true;
  changed_.notify_all();
  // Who waits for an answer is told that there is none.
  constexpr std::chrono::seconds kLastWords{5};
  changed_.wait_for(lock, kLastWords, [&] { return idle_ && queue_.empty(); });
}

bool Batcher::draining() const {
  const std::scoped_lock lock(mutex_);
  return draining_;
}

std::vector<Batcher::Slot> Batcher::slots() const {
  const std::scoped_lock lock(mutex_);
  return slots_;
}

int64_t Batcher::memory_of(const Job& job, int64_t answer) const {
  const auto plan = engine_.plan(std::ssize(job.prompt), *job.policy, answer);
  const int64_t tail = job.policy->recall() > 0 ? Recall::most_in_cache(std::ssize(job.prompt)) : 0;
  return (plan.kv_kept + plan.kv_reserve + plan.kv_states +
          tail * model_.hparams().n_layer * model_.hparams().kv_layer_bytes_per_token()) *
         job.choices;
}

std::shared_ptr<Batcher::Started> Batcher::next(const Suits& suits, bool overtakes) {
  const std::scoped_lock lock(mutex_);
  for (auto it = queue_.begin(); it != queue_.end();) {
    const auto job = *it;
    if (job->answer->given_up()) {
      it = queue_.erase(it);
      metrics_.waiting = std::ssize(queue_);
      ++metrics_.cancelled;
      continue;
    }
    // First come, first served: what does not fit yet is not overtaken for good.
    if (committed_ + job->kv_bytes > options_.kv_memory ||
        std::ssize(running_) + depth_ + job->choices > std::max(options_.parallel, job->choices))
      return nullptr;
    if (suits(*job)) {
      queue_.erase(it);
      metrics_.waiting = std::ssize(queue_);
      metrics_.queue_time.add(ms_since(job->arrived) / 1e3);
      commit(job->kv_bytes);
      auto started = std::make_shared<Started>();
      started->job = job;
      started->committed = job->kv_bytes;
      started->left = job->choices;
      return started;
    }
    if (!overtakes) return nullptr;
    ++it;
  }
  return nullptr;
}

bool Batcher::is_short(const Job& job) const {
  const auto n = std::ssize(job.prompt);
  return n <= kShortPrompt || n - prefixes_.reusable_prefix(job.owner, job.prompt) <= kShortPrompt;
}

bool Batcher::may_share_chunks(const Job& job) const {
  const auto n = std::ssize(job.prompt);
  if (n > kShortPrompt || job.prompt_logprobs) return false;
  const auto budget = job.policy->budget();
  if (job.policy->recall() > 0 && !(budget && budget->below_floor(n))) return false;
  return !options_.stores || prefixes_.reusable_prefix(job.owner, job.prompt) < n / 2;
}

void Batcher::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    idle_ = running_.empty();
    if (idle_) changed_.notify_all();
    changed_.wait(lock, [&] { return stopping_ || !queue_.empty() || !running_.empty(); });
    if (stopping_) break;
    idle_ = false;
    lock.unlock();
    admit();
    step();
    lock.lock();
  }
  ApiError gone(503, "the server is shutting down");
  for (const auto& job : queue_) job->answer->fail(gone);
  queue_.clear();
  for (const auto& running : running_) running.job().answer->fail(gone);
  running_.clear();
  idle_ = true;
  changed_.notify_all();
}

void Batcher::admit() {
  const auto any = [](const Job&) { return true; };
  while (const auto first = next(any, false)) {
    ahead_ms_ = 0;
    // Short prompts that wait together are read together, and not stored: what they save is more.
    std::vector<std::shared_ptr<Started>> together{first};
    if (may_share_chunks(*first->job)) add_others(together);
    if (together.size() > 1)
      start(together);
    else
      start(engine_, first);
    // Those under way get a token between two prompts.
    if (ms_since(last_step_) >= options_.max_stall_ms) step();
  }
}

void Batcher::add_others(std::vector<std::shared_ptr<Started>>& together) {
  // All get room for the longest answer, that of the first.
  const int64_t answer = together.front()->job->generate.max_tokens;
  int64_t tokens = std::ssize(together.front()->job->prompt);
  const auto suits = [&](const Job& job) {
    return may_share_chunks(job) && tokens + std::ssize(job.prompt) <= options_.engine.chunk &&
           job.generate.max_tokens <= answer && job.generate.max_tokens >= answer / 2 &&
           committed_ + memory_of(job, answer) <= options_.kv_memory;
  };
  while (together.size() < kMostTogether) {
    const auto another = next(suits, false);
    if (!another) return;
    const auto more = memory_of(*another->job, answer) - another->committed;
    another->committed += more;
    commit(more);
    tokens += std::ssize(another->job->prompt);
    together.push_back(another);
  }
}

void Batcher::fail(const Job& job, const std::exception& error) const {
  if (const auto* told = dynamic_cast<const ApiError*>(&error)) return job.answer->fail(*told);
  // What the engine refuses is short of memory; all else was checked before.
  job.answer->fail(ApiError(dynamic_cast<const Error*>(&error) != nullptr ? 503 : 500, error.what()));
}

void Batcher::commit(int64_t bytes) {
  committed_ += bytes;
  metrics_.kv_resident = committed_;
}

int64_t Batcher::step_tokens(int64_t most) {
  step_begin_ = Clock::now();
  step_tokens_ = most;
  if (running_.empty()) return most;
  // How long a step takes is found out with a short one.
  if (token_ms_ == 0) return step_tokens_ = std::min(most, 2 * kLeastStep);
  const double time = kPlannedShare * std::max(options_.max_stall_ms - ms_since(last_step_), 0.0);
  const double fit = std::max(time / token_ms_, static_cast<double>(kLeastStep));
  // As equal as can be: a short step at the end would read the weights for little.
  const auto steps = static_cast<int64_t>(std::ceil(static_cast<double>(most) / fit));
  return step_tokens_ = (most + steps - 1) / steps;
}

void Batcher::between(int64_t prompt_tokens) {
  if (depth_ == 1) ahead_ms_ += ms_since(last_between_);
  // Those of few tokens say little of longer ones.
  if (step_tokens_ >= 2 * kLeastStep || token_ms_ == 0)
    token_ms_ = ms_since(step_begin_) / static_cast<double>(std::max<int64_t>(1, step_tokens_));
  // A step is as long as there is time for it: with less than half of that left, another one would be short.
  if (!running_.empty() && ms_since(last_step_) >= options_.max_stall_ms / 2) step();
  // Short prompts get as much of the time as the long one, which else might never be done.
  if (depth_ == 1 && prompt_tokens > kShortPrompt && ahead_ms_ > 0) {
    const auto begin = Clock::now();
    if (const auto brief = next([this](const Job& job) { return is_short(job); }, true))
      start(short_engine_, brief);
    ahead_ms_ -= ms_since(begin);
  }
  last_between_ = Clock::now();
}

PrefixStore Batcher::store_for(const Job& job) {
  auto store = prefixes_.find(job.owner, job.prompt);
  store.set_place(prefixes_.make_room(store.bytes_to_add(job.prompt))
                      ? PrefixStoreOptions::Place::kMemory
                      : PrefixStoreOptions::Place::kTemporaryFile);
  return store;
}

void Batcher::note_prefill(Started& started, const Sequence& sequence, const PrefixStore* store) {
  const auto& job = *started.job;
  auto& usage = started.usage;
  usage.prompt_tokens = sequence.prompt_tokens;
  usage.cached_tokens = sequence.reused_tokens;
  usage.policy = job.policy->name();
  if (const auto budget = job.policy->budget()) usage.budget = budget->text();
  if (job.policy->config() != nullptr) usage.task = to_string(job.task);
  usage.total = job.policy->total();
  for (const auto kept : sequence.kept) usage.kept_tokens += static_cast<double>(kept);
  const auto& hp = model_.hparams();
  usage.kept_tokens /= std::max(1, hp.row_layer(hp.n_layer));
  usage.kept_bytes = sequence.bytes.kept;
  usage.full_bytes = hp.full_bytes(sequence.prompt_tokens) + hp.state_bytes();
  usage.stored_bytes = store != nullptr ? store->shown_bytes() : 0;
  usage.prompt_ms = sequence.timing.total;
  if (job.show_kept) usage.kept_text = kept_text_of(model_.vocab(), job, sequence);
  metrics_.prompt_tokens += usage.prompt_tokens;
  metrics_.cached_tokens += usage.cached_tokens;
  metrics_.prefix_hits += usage.cached_tokens > 0 ? 1 : 0;
}

template <typename Work>
void Batcher::reading(std::span<const std::shared_ptr<Started>> all, Work&& work) {
  ++depth_;
  tell_slots();
  last_between_ = Clock::now();
  auto failed = [&](const std::exception& e) {
    for (const auto& started : all) {
      if (started->left == 0) continue;
      commit(-started->committed);
      fail(*started->job, e);
    }
  };
  try {
    work();
  } catch (const Cancelled&) {
    ++metrics_.cancelled;
    failed(Error("the server is shutting down"));  // or nobody waits any more
  } catch (const std::exception& e) {
    failed(e);
  }
  --depth_;
  tell_slots();
}

void Batcher::start(Engine& engine, const std::shared_ptr<Started>& started) {
  reading(std::span(&started, 1), [&] {
    const auto& job = *started->job;
    std::optional<PrefixStore> store;
    if (options_.stores && !job.prompt_logprobs) store = store_for(job);
    PrefillOptions prefill;
    prefill.reserve = job.generate.max_tokens;
    prefill.store = store ? &*store : nullptr;
    prefill.cancelled = [&] { return job.answer->given_up() || stopping_; };
    prefill.step_tokens = [this](int64_t most) { return step_tokens(most); };
    prefill.progress = [&](int64_t, int64_t) { between(std::ssize(job.prompt)); };
    Delta prompt_delta;
    if (job.prompt_logprobs)
      prefill.all_logits = [&](int64_t position, std::span<const float> logits) {
        if (position + 1 < std::ssize(job.prompt))
          prompt_delta.logprobs.push_back(
              logprob_of(job.prompt[static_cast<size_t>(position) + 1], logits, job.top_logprobs));
      };
    Sequence sequence;
    const auto logits = engine.prefill(sequence, job.prompt, *job.policy, prefill);
    const std::vector<float> kept_logits(logits.begin(), logits.end());  // the next call takes their place
    if (store) prefixes_.put(job.owner, *store);
    note_prefill(*started, sequence, store ? &*store : nullptr);
    if (job.prompt_logprobs) job.answer->push(std::move(prompt_delta));
    add_choices(engine, started, std::move(sequence), kept_logits);
  });
}

void Batcher::start(std::span<const std::shared_ptr<Started>> together) {
  reading(together, [&] {
    std::vector<Sequence> sequences(together.size());
    std::vector<PrefillRequest> requests;
    for (size_t i = 0; i < together.size(); ++i)
      requests.push_back({&sequences[i], together[i]->job->prompt, together[i]->job->policy.get()});
    PrefillOptions prefill;
    prefill.reserve = together.front()->job->generate.max_tokens;
    prefill.cancelled = [&] { return stopping_.load(); };
    prefill.step_tokens = [this](int64_t most) { return step_tokens(most); };
    prefill.progress = [&](int64_t, int64_t) { between(0); };
    const auto all = engine_.prefill(requests, prefill);
    const std::vector<float> logits(all.begin(), all.end());
    const size_t n_vocab = logits.size() / together.size();
    for (size_t i = 0; i < together.size(); ++i) {
      note_prefill(*together[i], sequences[i], nullptr);
      add_choices(engine_, together[i], std::move(sequences[i]),
                  std::span(logits).subspan(i * n_vocab, n_vocab));
    }
  });
}

void Batcher::add_choices(Engine& engine, const std::shared_ptr<Started>& started, Sequence sequence,
                          std::span<const float> logits) {
  const auto& job = *started->job;
  std::list<Running> added;
  for (int choice = 0; choice < job.choices; ++choice) {
    auto& running = added.emplace_back();
    running.started = started;
    running.choice = choice;
    if (choice > 0) running.sequence = engine.fork(sequence);
    auto options = options_of(job, choice);
    options.on_text = [&running](std::string_view text) { running.delta.text += text; };
    if (job.top_logprobs >= 0)
      options.on_token = [&running, top = job.top_logprobs](Token token, std::span<const float> from) {
        running.delta.logprobs.push_back(logprob_of(token, from, top));
      };
    running.continuation = std::make_unique<Continuation>(&model_.vocab(), static_cast<int>(logits.size()),
                                                          job.prompt, std::move(options));
  }
  added.front().sequence = std::move(sequence);
  started->answering = Clock::now();
  for (auto& running : added)
    if (!running.continuation->done()) draw(running, logits);
  metrics_.first_token.add(ms_since(job.arrived) / 1e3);
  metrics_.kv_full += started->usage.full_bytes;
  running_.splice(running_.end(), added);
  for (auto it = running_.begin(); it != running_.end();) {
    const auto running = it++;
    if (running->started != started) continue;
    running->last_token = Clock::now();
    running->send();
    if (running->continuation->done()) finish(running);
  }
}

void Batcher::fail(Running& running, const std::exception& error) {
  fail(running.job(), error);
  running.job().answer->give_up();  // what else there is of the job ends with the next step
  if (!running.continuation->done()) running.continuation->end(StopReason::kCancelled);
}

void Batcher::draw(Running& running, std::span<const float> logits) {
  const auto begin = Clock::now();
  try {
    running.continuation->draw(logits);
    // The next token of a grammar that has become so slow might take far longer.
    if (ms_since(begin) > kSlowestDrawMs) throw Error("the grammar takes too long");
  } catch (const Error& e) {  // or it allows no token
    fail(running, ApiError(400, e.what(), "grammar"));
  } catch (const std::exception& e) {
    fail(running, e);
  }
}

void Batcher::step() {
  for (auto it = running_.begin(); it != running_.end();) {
    const auto running = it++;
    if (running->job().answer->given_up()) {
      running->continuation->end(StopReason::kCancelled);
      finish(running);
    }
  }
  last_step_ = Clock::now();
  if (running_.empty()) return tell_slots();
  std::vector<Step> steps;
  bool greedy = true;
  for (auto& running : running_) {
    steps.push_back({&running.sequence, running.continuation->generation().tokens.back()});
    greedy = greedy && !running.continuation->needs_logits();
  }
  // Not the engine that reads a prompt, whose results must stay.
  auto& engine = short_engine_;
  try {
    if (greedy) {
      const auto tokens = engine.decode_greedy(steps);
      size_t i = 0;
      for (auto& running : running_) running.continuation->take(tokens[i++]);
    } else {
      const auto logits = engine.decode(steps);
      const size_t n_vocab = logits.size() / steps.size();
      size_t i = 0;
      for (auto& running : running_) draw(running, logits.subspan(n_vocab * i++, n_vocab));
    }
  } catch (const std::exception& e) {
    for (auto& running : running_) fail(running, e);
  }
  ++metrics_.decode_steps;
  for (auto it = running_.begin(); it != running_.end();) {
    const auto running = it++;
    metrics_.inter_token.add(ms_since(running->last_token) / 1e3);
    running->last_token = Clock::now();
    running->send();
    if (running->continuation->done()) finish(running);
  }
  tell_slots();
}

void Batcher::finish(std::list<Running>::iterator running) {
  auto& started = *running->started;
  auto& usage = started.usage;
  const auto& generation = running->continuation->generation();
  usage.completion_tokens += std::ssize(generation.tokens);
  usage.recalls += running->sequence.recalls.count;
  usage.evictions += running->sequence.evictions.count;
  metrics_.generated_tokens += std::ssize(generation.tokens);
  if (--started.left == 0) {
    if (generation.reason == StopReason::kCancelled) ++metrics_.cancelled;
    commit(-started.committed);
    metrics_.kv_full -= usage.full_bytes;
    usage.decode_ms = ms_since(started.answering);
    if (options_.on_finished) options_.on_finished(*started.job, usage);
    started.job->answer->finish(usage);
  }
  running_.erase(running);
}

void Batcher::tell_slots() {
  std::vector<Slot> slots;
  for (auto& running : running_)
    slots.push_back({running.job().id, running.job().owner, running.choice, running.sequence.prompt_tokens,
                     std::ssize(running.continuation->generation().tokens), running.job().generate.max_tokens,
                     false});
  metrics_.processing = std::ssize(running_) + depth_;
  const std::scoped_lock lock(mutex_);
  slots_ = std::move(slots);
}

}  // namespace windowkv::server
