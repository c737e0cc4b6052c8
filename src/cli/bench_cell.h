#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "windowkv/engine.h"

namespace windowkv::cli {

/// Where the bytes of a peak RSS are. Bytes.
struct PeakMemory {
  int64_t program = 0;  ///< code, libraries and their buffers, vocabulary
  int64_t weights = 0;  ///< copied or mapped; of mapped ones what has been touched
  int64_t kv = 0;       ///< caches of all sequences and one layer in full
  int64_t prompt = 0;   ///< hidden states, and what a chunk's attention needs
  int64_t compute = 0;  ///< intermediate results
  int64_t rss = -1;     ///< measured; -1 where the system does not tell

  int64_t explained() const { return program + weights + kv + prompt + compute; }
};

/// Sequences decoded together.
struct BatchSpeed {
  int64_t sequences = 0;
  std::vector<double> tokens_per_second;  ///< of all of them, by repetition
  DeviceTraffic traffic;                  ///< of all steps of a repetition
};

/// A prompt length and a budget, measured some times.
struct BenchCell {
  int64_t length = 0;
  int64_t prompts = 1;             ///< prefilled together
  std::string budget;              ///< "full" is the full cache
  std::vector<double> prefill_ms;  ///< of all prompts
  std::vector<double> selection_ms;
  std::vector<double> first_token_ms;
  DeviceTraffic traffic;  ///< of a prefill
  std::vector<BatchSpeed> decode;
  MemoryPlan plan;
  KvBytes kv;       ///< of one sequence
  double kept = 0;  ///< share of the prompt's tokens
  PeakMemory memory;

  /// Measures once more: prefills prompts of random tokens, then decodes `predict` tokens of each of as many
  /// copies of the first one's cache as every entry of `decode` says. `progress` is of the prefill. Throws
  /// Cancelled on Ctrl-C, and then has what it had before.
  void measure(const Model& model, Engine& engine, const Policy& policy, int64_t predict,
               const std::function<void(int64_t done, int64_t total)>& progress = {});
  bool measured() const { return !prefill_ms.empty(); }

 private:
  void measure_once(const Model& model, Engine& engine, const Policy& policy, int64_t predict,
                    const std::function<void(int64_t done, int64_t total)>& progress);
};

/// PeakMemory::program, where the model is loaded, nothing else is held, and something has been computed:
/// libraries make buffers when first used.
int64_t program_bytes(const Model& model);

double median(std::vector<double> values);

}  // namespace windowkv::cli
