#include "cli/bench_cell.h"

#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <optional>
#include <random>
#include <string_view>

#include "cli/interrupt.h"
#include "model/loaded_model.h"
#include "support/clock.h"
#include "windowkv/error.h"
#include "windowkv/prefix_store.h"

namespace windowkv::cli {

namespace {

/// A line of /proc/self/status in bytes; -1 where there is none.
int64_t status_bytes(std::string_view key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key)) return std::stoll(line.substr(key.size())) * 1024;
  return -1;
}

void reset_peak_rss() {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";
}

/// Tokens per second of all sequences together; they are as before afterwards.
double decode_speed(Engine& engine, std::span<Sequence> sequences, Token first, int64_t predict) {
  std::vector<Step> steps;
  for (auto& sequence : sequences) steps.push_back({&sequence, first});
  const auto start = Clock::now();
  for (int64_t i = 0; i < predict; ++i) {
    if (interrupted()) throw Cancelled();
    const auto ids = engine.decode_greedy(steps);
    for (size_t s = 0; s < steps.size(); ++s) steps[s].token = ids[s];
  }
  const std::chrono::duration<double> time = Clock::now() - start;
  for (auto& sequence : sequences) sequence.rewind();
  return static_cast<double>(predict) * static_cast<double>(sequences.size()) / time.count();
}

/// Bytes of weights that are in memory: all that were copied, of mapped ones what has been touched so far.
int64_t resident_weights(const Model& model) {
  int64_t resident = 0;
  for (const auto& buffer : model.loaded().storage.buffers)
    if (std::string_view(ggml_backend_buffer_name(buffer.get())).find("Mapped") == std::string_view::npos)
      resident += static_cast<int64_t>(ggml_backend_buffer_get_size(buffer.get()));
  std::ifstream maps("/proc/self/smaps");
  const auto path = std::filesystem::canonical(model.path()).string();
  bool mapped = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find('-') < line.find(' ')) mapped = line.ends_with(path);
    if (mapped && line.starts_with("Rss:")) resident += std::stoll(line.substr(4)) * 1024;
  }
  return resident;
}

}  // namespace

int64_t program_bytes(const Model& model) {
  malloc_trim(0);
  return std::max<int64_t>(0, status_bytes("VmRSS:") - resident_weights(model));
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

void BenchCell::measure(const Model& model, Engine& engine, const Policy& policy, int64_t predict,
                        const std::function<void(int64_t done, int64_t total)>& progress) {
  const auto before = *this;
  try {
    measure_once(model, engine, policy, predict, progress);
  } catch (const Cancelled&) {
    *this = before;
    throw;
  }
}

void BenchCell::measure_once(const Model& model, Engine& engine, const Policy& policy, int64_t predict,
                             const std::function<void(int64_t done, int64_t total)>& progress) {
  std::mt19937 random(42);
  std::vector<Token> tokens(static_cast<size_t>(length * prompts));
  for (auto& token : tokens)
    token = static_cast<Token>(random() % static_cast<uint32_t>(model.hparams().n_vocab));
  int64_t most = 1;
  for (const auto& batch : decode) most = std::max(most, batch.sequences);

  reset_peak_rss();
  // Where the store is read, a cache holds generated tokens alone, and a pool needs room for one.
  const int64_t reserve = policy.recall() > 0 ? std::max<int64_t>(1, predict) : predict;
  plan = engine.plan(length, policy, reserve);
  PrefillOptions options;
  options.reserve = reserve;
  options.cancelled = interrupted;
  options.progress = progress;
  options.pool =
      engine.make_pool(engine.plan_pool(0, length, policy, reserve).sequence_bytes * std::max(most, prompts));
  std::optional<PrefixStore> store;
  if (policy.recall() > 0) {
    if (prompts > 1)
      throw Error("--recall needs a prefix store, which serves one prompt: leave out --prompts");
    options.store = &store.emplace(model, PrefixStoreOptions{.snapshots = 0});
  }
  std::vector<Sequence> sequences(static_cast<size_t>(prompts));
  std::vector<PrefillRequest> requests;
  for (size_t i = 0; i < sequences.size(); ++i)
    requests.push_back(
        {&sequences[i],
         std::span(tokens).subspan(i * static_cast<size_t>(length), static_cast<size_t>(length)), &policy});
  const auto before = engine.prefill_traffic();
  const auto start = Clock::now();
  const auto logits =
      store ? engine.prefill(sequences[0], tokens, policy, options)
            : engine.prefill(requests, options).first(static_cast<size_t>(model.hparams().n_vocab));
  prefill_ms.push_back(ms_since(start));
  const auto first = static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  first_token_ms.push_back(ms_since(start));
  traffic = engine.prefill_traffic() - before;
  selection_ms.push_back(
      std::accumulate(sequences.begin(), sequences.end(), 0.0,
                      [](double sum, const Sequence& s) { return sum + s.timing.selection; }));
  kv = sequences[0].bytes;
  kept = std::accumulate(sequences[0].kept.begin(), sequences[0].kept.end(), 0.0) /
         static_cast<double>(model.hparams().full_rows(length));

  while (static_cast<int64_t>(sequences.size()) < most)
    sequences.push_back(engine.fork(sequences[0], options.pool));
  if (predict > 0)
    for (auto& batch : decode) {
      const auto earlier = engine.decode_traffic();
      batch.tokens_per_second.push_back(decode_speed(
          engine, std::span(sequences).first(static_cast<size_t>(batch.sequences)), first, predict));
      batch.traffic = engine.decode_traffic() - earlier;
    }

  memory.weights = std::max(memory.weights, resident_weights(model));
  memory.kv = options.pool.bytes() + plan.kv_scratch + (store ? store->bytes() : 0);
  memory.prompt = plan.hidden + plan.mask;
  memory.compute = engine.compute_bytes();
  memory.rss = std::max(memory.rss, status_bytes("VmHWM:"));
}

}  // namespace windowkv::cli
