#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "server/api_error.h"
#include "windowkv/generate.h"

namespace windowkv::server {

/// A token with the natural logarithm of its probability, and those of the most probable ones in its place.
struct TokenLogprob {
  Token token = 0;
  float logprob = 0;
  std::vector<std::pair<Token, float>> top;  ///< descending
};

/// Something new in one of a job's choices.
struct Delta {
  int choice = 0;
  std::string text;                  ///< whole UTF-8 characters
  std::string reasoning = {};        ///< found in its text, of which it is then no part
  std::vector<ToolCall> calls = {};  ///< likewise
  std::vector<TokenLogprob> logprobs;
  std::optional<StopReason> finished;  ///< the choice is complete
};

/// What a prompt and its choices took.
struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  ///< the prompt's first, which a stored prefix had
  int64_t completion_tokens = 0;
  // Of the KV cache:
  std::string policy;
  std::string budget;      ///< empty for a policy without one
  std::string task;        ///< likewise for one that does not go by it
  int64_t total = 0;       ///< Policy::total
  double kept_tokens = 0;  ///< of the prompt, a layer, on average: what each token reads
  int64_t kept_bytes = 0;
  int64_t full_bytes = 0;    ///< what the whole prompt would take, in F16
  int64_t stored_bytes = 0;  ///< of the prompt, put aside; 0 without a store
  int64_t recalls = 0;       ///< choices made again while answering
  int64_t evictions = 0;     ///< times that tokens were dropped while answering
  /// The prompt in pieces, and the share of layers and KV heads that read each, where that was asked for.
  std::vector<std::pair<std::string, double>> kept_text;
  double prompt_ms = 0;
  double decode_ms = 0;
};

/// Between the thread that computes and the one that serves the connection: deltas one way, giving up the
/// other.
class Answer {
 public:
  // For the thread that computes.
  void push(Delta delta);
  /// Nothing follows.
  void finish(const Usage& usage);
  void fail(const ApiError& error);
  bool given_up() const { return given_up_; }

  // For the connection's.
  /// The next delta; nullopt once nothing follows, or where nothing came in time (see finished()). Throws
  /// ApiError where the job failed.
  std::optional<Delta> next(std::chrono::milliseconds patience);
  /// Whether all deltas were taken and nothing follows.
  bool finished() const;
  /// Once finished.
  Usage usage() const;
  /// Nobody waits any more.
  void give_up() { given_up_ = true; }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Delta> deltas_;
  std::optional<Usage> usage_;
  std::optional<ApiError> error_;
  std::atomic<bool> given_up_ = false;
};

}  // namespace windowkv::server
