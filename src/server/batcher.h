#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "server/job.h"
#include "server/metrics.h"
#include "server/prefix_cache.h"
#include "windowkv/engine.h"

namespace windowkv::server {

struct BatcherOptions {
  EngineOptions engine;
  int parallel = 32;          ///< answers under way at once
  int queue = 512;            ///< jobs that wait
  int64_t kv_memory = 0;      ///< bytes of K and V in caches, room for answers included
  double max_stall_ms = 250;  ///< time without a token of the answers under way while a prompt is read
  bool stores = true;         ///< whether prompts are put into prefix stores
  /// Told of each job that has its answers.
  std::function<void(const Job& job, const Usage& usage)> on_finished;
};

/// Continuous batching: one thread that reads prompts and decodes all answers under way together. While a
/// long prompt is read, layer by layer and chunk by chunk, the others go on, and short prompts need not wait
/// for it.
class Batcher {
 public:
  /// The model and the cache must outlive it.
  Batcher(const Model& model, const BatcherOptions& options, PrefixCache& prefixes, Metrics& metrics);
  /// Gives up what is under way.
  ~Batcher();

  /// Throws ApiError where the queue is full, the server shuts down, or the job never fits.
  void submit(std::shared_ptr<Job> job);
  /// Takes no more jobs, and finishes those under way; gives up what is left after `patience`.
  void drain(std::chrono::milliseconds patience);

  bool draining() const;

  /// An answer under way, for /slots.
  struct Slot {
    std::string id;
    std::string owner;
    int choice = 0;
    int64_t prompt_tokens = 0;
    int64_t generated = 0;
    int64_t most_tokens = 0;
    bool reading = false;  ///< its prompt is being read
  };
  std::vector<Slot> slots() const;

 private:
  /// One choice of a job, once its prompt is read.
  struct Running;
  /// A job whose prompt is read, and what its choices share.
  struct Started;

  void loop();
  /// Starts what waits and fits.
  void admit();
  using Suits = std::function<bool(const Job& job)>;
  /// Takes the next job off the queue, if it suits and fits, and sets its memory aside; null otherwise.
  /// `overtakes`: goes on to later ones where one does not suit.
  std::shared_ptr<Started> next(const Suits& suits, bool overtakes);
  bool is_short(const Job& job) const;
  /// Whether its prompt may be read in the same chunks as others: it is short, and needs no store.
  bool may_share_chunks(const Job& job) const;
  /// Adds jobs that wait and may share chunks with the first.
  void add_others(std::vector<std::shared_ptr<Started>>& together);
  /// Bytes of K and V, with room for an answer of that many tokens.
  int64_t memory_of(const Job& job, int64_t answer) const;
  PrefixStore store_for(const Job& job);
  void note_prefill(Started& started, const Sequence& sequence, const PrefixStore* store);
  /// Does the work of reading these prompts; where it fails, so do the jobs that have not ended.
  template <typename Work>
  void reading(std::span<const std::shared_ptr<Started>> all, Work&& work);
  void start(Engine& engine, const std::shared_ptr<Started>& started);
  void start(std::span<const std::shared_ptr<Started>> together);
  void add_choices(Engine& engine, const std::shared_ptr<Started>& started, Sequence sequence,
                   std::span<const float> logits);
  /// Sets memory aside, or gives it back.
  void commit(int64_t bytes);
  /// How many of the next `most` tokens of a prompt are read at once, so that answers under way have their
  /// next token in time.
  int64_t step_tokens(int64_t most);
  /// Between two steps of reading a prompt.
  void between(int64_t prompt_tokens);
  /// One token of every answer under way.
  void step();
  void finish(std::list<Running>::iterator running);
  void fail(const Job& job, const std::exception& error) const;
  void fail(Running& running, const std::exception& error);
  /// The next token of one choice; where that fails, its job does.
  void draw(Running& running, std::span<const float> logits);
  void tell_slots();

  const Model& model_;
  const BatcherOptions options_;
  PrefixCache& prefixes_;
  Metrics& metrics_;
  Engine engine_;
  Engine short_engine_;  ///< reads short prompts while engine_ is at a long one
  int depth_ = 0;        ///< prompts that are being read, one within the other
  std::list<Running> running_;
  int64_t committed_ = 0;  ///< bytes of kv_memory
  std::chrono::steady_clock::time_point last_step_;
  std::chrono::steady_clock::time_point step_begin_;  ///< of the step of reading under way
  int64_t step_tokens_ = 0;                           ///< that it takes
  double token_ms_ = 0;  ///< that a token of such a step took of late; 0: none did
  double ahead_ms_ = 0;  ///< time that the long prompt under way had, less that of prompts between
  std::chrono::steady_clock::time_point last_between_;

  mutable std::mutex mutex_;  ///< of what follows
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> queue_;
  std::vector<Slot> slots_;
  bool draining_ = false;
  std::atomic<bool> stopping_ = false;
  bool idle_ = true;
  std::thread thread_;
};

}  // namespace windowkv::server
