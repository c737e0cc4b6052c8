#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <string>

namespace windowkv::server {

/// A histogram of seconds, in Prometheus' form. Safe to use from several threads.
class Histogram {
 public:
  void add(double seconds);
  /// Its lines, as `name`.
  std::string text(const std::string& name, const std::string& help) const;

 private:
  static constexpr std::array kBounds = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,  1.0,
                                         2.5,   5.0,  10.0,  25.0, 50., 100., 250., 500.0};
  std::array<std::atomic<int64_t>, kBounds.size() + 1> counts_{};
  std::atomic<double> sum_ = 0;
};

/// What the server has done since it was started. Safe to use from several threads.
struct Metrics {
  std::atomic<int64_t> requests = 0;   ///< prompts taken
  std::atomic<int64_t> refused = 0;    ///< requests answered with an error
  std::atomic<int64_t> cancelled = 0;  ///< prompts whose client left
  std::atomic<int64_t> prompt_tokens = 0;
  std::atomic<int64_t> cached_tokens = 0;
  std::atomic<int64_t> generated_tokens = 0;
  std::atomic<int64_t> prefix_hits = 0;  ///< prompts that began with a stored prefix
  std::atomic<int64_t> decode_steps = 0;
  std::atomic<int64_t> processing = 0;   ///< answers under way
  std::atomic<int64_t> waiting = 0;      ///< prompts in the queue
  std::atomic<int64_t> kv_resident = 0;  ///< bytes of K and V in caches, or set aside for them
  std::atomic<int64_t> kv_full = 0;      ///< what the same prompts would take in full
  Histogram first_token;                 ///< from arrival to the first token
  Histogram inter_token;                 ///< between two tokens of an answer
  Histogram queue_time;                  ///< from arrival until the prompt is read

  /// `stored_memory`, `stored_disk`: bytes of prefixes.
  std::string text(int64_t stored_memory, int64_t stored_disk) const;
};

}  // namespace windowkv::server
