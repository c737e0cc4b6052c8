#include "server/batcher.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "generate/kept_shares.h"
#include "server/logprobs.h"
#include "support/bytes_text.h"
#include "support/clock.h"
#include "windowkv/error.h"

namespace windowkv::server {

namespace {

/// Tokens that may be read while a longer prompt waits, half-read: they take no longer than one of its steps.
constexpr int64_t kShortPrompt = 512;

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
  int64_t full_bytes = 0;
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
  const auto bytes = memory_of(engine_, *job);
  if (bytes > options_.kv_memory)
    throw ApiError(
        400,
        fmt::format("the prompt's {} tokens and an answer of up to {} need {} of KV cache, more than "
                    "the server's {}; ask for fewer tokens or a smaller budget",
                    job->prompt.size(), job->generate.max_tokens, bytes_text(bytes),
                    bytes_text(options_.kv_memory)),
        "max_tokens", "kv_memory_exceeded");
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
}

std::vector<Batcher::Slot> Batcher::slots() const {
  const std::scoped_lock lock(mutex_);
  return slots_;
}

int64_t Batcher::memory_of(const Engine& engine, const Job& job) const {
  const auto plan =
      engine.plan(std::ssize(job.prompt), *job.policy, std::max<int64_t>(0, job.generate.max_tokens));
  // What a sequence that chooses again may hold of the prompt itself (docs/prefix-store.md).
  const int64_t tail = job.policy->recall() > 0 ? std::max<int64_t>(64, std::ssize(job.prompt) / 16) : 0;
  return (plan.kv_kept + plan.kv_reserve +
          tail * model_.hparams().n_layer * model_.hparams().kv_layer_bytes_per_token()) *
         job.choices;
}

std::shared_ptr<Job> Batcher::next_job(const Engine& engine, int64_t most_tokens) {
  const std::scoped_lock lock(mutex_);
  for (auto it = queue_.begin(); it != queue_.end(); ++it) {
    const auto& job = **it;
    const bool fits = committed_ + memory_of(engine, job) <= options_.kv_memory &&
                      std::ssize(running_) + depth_ + job.choices <= std::max(options_.parallel, job.choices);
    const bool is_short =
        std::ssize(job.prompt) <= most_tokens ||
        std::ssize(job.prompt) - prefixes_.common_prefix(job.owner, job.prompt) <= most_tokens;
    // First come, first served: what does not fit yet is not overtaken for good. Long prompts are, by short
    // ones, while another long one is read.
    if (!fits) return nullptr;
    if (!is_short) continue;
    auto found = *it;
    queue_.erase(it);
    metrics_.waiting = std::ssize(queue_);
    return found;
  }
  return nullptr;
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
  while (const auto job = next_job(engine_, INT64_MAX)) {
    ahead_ms_ = 0;
    start(engine_, job);
    // Those under way get a token between two prompts.
    if (ms_since(last_step_) >= options_.max_stall_ms) step();
  }
}

void Batcher::fail(const Job& job, const std::exception& error) const {
  // What the engine refuses is short of memory; all else was checked before.
  job.answer->fail(ApiError(dynamic_cast<const Error*>(&error) != nullptr ? 503 : 500, error.what()));
}

void Batcher::commit(int64_t bytes) {
  committed_ += bytes;
  metrics_.kv_resident = committed_;
}

void Batcher::between(int64_t prompt_tokens) {
  const double ms = ms_since(last_between_);
  step_ms_ = std::max(0.8 * step_ms_, ms);
  if (depth_ == 1) ahead_ms_ += ms;
  if (!running_.empty() && ms_since(last_step_) + step_ms_ >= options_.max_stall_ms) step();
  // Short prompts get as much of the time as the long one, which else might never be done.
  if (depth_ == 1 && prompt_tokens > kShortPrompt && ahead_ms_ > 0) {
    const auto begin = Clock::now();
    if (const auto job = next_job(short_engine_, kShortPrompt)) start(short_engine_, job);
    ahead_ms_ -= ms_since(begin);
  }
  last_between_ = Clock::now();
}

void Batcher::start(Engine& engine, const std::shared_ptr<Job>& job) {
  if (job->answer->given_up()) {
    ++metrics_.cancelled;
    return;
  }
  metrics_.queue_time.add(ms_since(job->arrived) / 1e3);
  auto started = std::make_shared<Started>();
  started->job = job;
  started->committed = memory_of(engine, *job);
  started->left = job->choices;
  commit(started->committed);
  ++depth_;
  tell_slots();
  try {
    std::optional<PrefixStore> store;
    if (options_.stores && !job->prompt_logprobs) {
      store = prefixes_.find(job->owner, job->prompt);
      const auto missing = store->bytes(std::ssize(job->prompt)) - store->bytes(std::ssize(store->tokens()));
      store->set_place(prefixes_.make_room(missing) ? PrefixStoreOptions::Place::kMemory
                                                    : PrefixStoreOptions::Place::kTemporaryFile);
    }
    PrefillOptions prefill;
    prefill.reserve = std::max<int64_t>(0, job->generate.max_tokens);
    prefill.store = store ? &*store : nullptr;
    prefill.cancelled = [&] { return job->answer->given_up() || stopping_; };
    last_between_ = Clock::now();
    prefill.progress = [&](int64_t, int64_t) { between(std::ssize(job->prompt)); };
    Delta prompt_delta;
    if (job->prompt_logprobs)
      prefill.all_logits = [&](int64_t position, std::span<const float> logits) {
        if (position + 1 < std::ssize(job->prompt))
          prompt_delta.logprobs.push_back(
              logprob_of(job->prompt[static_cast<size_t>(position) + 1], logits, job->top_logprobs));
      };
    Sequence sequence;
    const auto logits = engine.prefill(sequence, job->prompt, *job->policy, prefill);
    const std::vector<float> kept_logits(logits.begin(), logits.end());  // the next prefill takes their place
    if (store) prefixes_.put(job->owner, *store);

    auto& usage = started->usage;
    usage.prompt_tokens = sequence.prompt_tokens;
    usage.cached_tokens = sequence.reused_tokens;
    usage.policy = job->policy->name();
    if (const auto budget = job->policy->budget()) usage.budget = budget->text();
    usage.task = to_string(job->task);
    for (const auto kept : sequence.kept) usage.kept_tokens += static_cast<double>(kept);
    usage.kept_tokens /= static_cast<double>(sequence.kept.size());
    usage.kept_bytes = sequence.bytes.kept;
    usage.full_bytes = started->full_bytes = sequence.bytes.full;
    usage.stored_bytes = store ? store->bytes(usage.prompt_tokens) : 0;
    usage.prompt_ms = sequence.timing.total;
    if (job->show_kept) usage.kept_text = kept_text_of(model_.vocab(), *job, sequence);
    metrics_.prompt_tokens += usage.prompt_tokens;
    metrics_.cached_tokens += usage.cached_tokens;
    metrics_.prefix_hits += usage.cached_tokens > 0 ? 1 : 0;
    if (job->prompt_logprobs) job->answer->push(std::move(prompt_delta));
    add_choices(engine, started, std::move(sequence), kept_logits);
  } catch (const Cancelled&) {
    ++metrics_.cancelled;
    commit(-started->committed);
    job->answer->fail(ApiError(503, "the server is shutting down"));
  } catch (const std::exception& e) {
    commit(-started->committed);
    fail(*job, e);
  }
  --depth_;
  tell_slots();
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
    if (!running.continuation->done()) running.continuation->draw(logits);
  metrics_.first_token.add(ms_since(job.arrived) / 1e3);
  metrics_.kv_full += started->full_bytes;
  running_.splice(running_.end(), added);
  for (auto it = running_.begin(); it != running_.end();) {
    const auto running = it++;
    if (running->started != started) continue;
    running->last_token = Clock::now();
    running->send();
    if (running->continuation->done()) finish(running);
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
  if (running_.empty()) return;
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
      for (auto& running : running_) running.continuation->draw(logits.subspan(n_vocab * i++, n_vocab));
    }
  } catch (const std::exception& e) {
    while (!running_.empty()) {
      fail(running_.front().job(), e);
      finish(running_.begin());
    }
    return;
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
  metrics_.generated_tokens += std::ssize(generation.tokens);
  if (--started.left == 0) {
    if (generation.reason == StopReason::kCancelled) ++metrics_.cancelled;
    commit(-started.committed);
    metrics_.kv_full -= started.full_bytes;
    usage.decode_ms = ms_since(started.answering);
    started.job->answer->finish(usage);
  }
  running_.erase(running);
}

void Batcher::tell_slots() {
  std::vector<Slot> slots;
  for (auto& running : running_)
    slots.push_back({running.job().id, running.choice, running.sequence.prompt_tokens,
                     std::ssize(running.continuation->generation().tokens), running.job().generate.max_tokens,
                     false});
  metrics_.processing = std::ssize(running_) + depth_;
  const std::scoped_lock lock(mutex_);
  slots_ = std::move(slots);
}

}  // namespace windowkv::server
