// What the CPU's own kernels reach alone, one thread each: windowkv-kernel-bench, with WINDOWKV_VECTORS for
// what lesser processors would run. Google Benchmark's flags apply (--benchmark_filter=...).
#include <benchmark/benchmark.h>
#include <ggml.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "backend/causal_attention.h"
#include "backend/row_kernels.h"

namespace windowkv {
namespace {

std::vector<float> random_numbers(size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (auto& x : out) x = normal(random);
  return out;
}

/// Rows [d, tokens, heads], the same numbers in each head.
struct Rows {
  Rows(ggml_type type, int d, int64_t tokens, int heads)
      : bytes(ggml_row_size(type, d) * static_cast<size_t>(tokens * heads)) {
    const auto values = random_numbers(static_cast<size_t>(d * tokens));
    const size_t row = ggml_row_size(type, d);
    const size_t head = row * static_cast<size_t>(tokens);
    for (int h = 0; h < heads; ++h)
      ggml_quantize_chunk(type, values.data(), bytes.data() + static_cast<size_t>(h) * head, 0, tokens, d,
                          nullptr);
    rows = {type, bytes.data(), row, head};
  }
  std::vector<char> bytes;
  HostRows rows;
};

/// A chunk of a prompt: 1,024 queries of 8 heads, 4 to a KV head, behind `past` rows of F16.
struct Chunk {
  static constexpr int64_t kTokens = 1024, kPast = 7168;
  static constexpr int kHeads = 8, kKvHeads = 2;

  Chunk(int d, bool rounded)
      : k(GGML_TYPE_F16, d, kPast + kTokens, kKvHeads),
        q(random_numbers(static_cast<size_t>(kTokens * kHeads * d))),
        queries{.q = q.data(),
                .token_stride = static_cast<size_t>(kHeads * d),
                .head_stride = static_cast<size_t>(d),
                .tokens = kTokens,
                .first = kPast,
                .n_head = kHeads,
                .n_head_kv = kKvHeads,
                .d_head = d,
                .logits = {.scale = 1 / std::sqrt(static_cast<float>(d))},
                .rounded = rounded} {}

  /// Of one pass over what queries see.
  double operations() const {
    return 2.0 * queries.d_head * kHeads * kTokens * (static_cast<double>(kPast) + 0.5 * kTokens);
  }

  Rows k;
  std::vector<float> q;
  CausalQueries queries;
};

void tell_speed(benchmark::State& state, double operations) {
  state.counters["flops"] = benchmark::Counter(operations, benchmark::Counter::kIsIterationInvariantRate,
                                               benchmark::Counter::kIs1000);
}

void attend(benchmark::State& state) {
  const Chunk chunk(static_cast<int>(state.range(0)), state.range(1) != 0);
  const size_t stride = chunk.queries.token_stride;
  std::vector<float> out(Chunk::kTokens * stride), log_sums(Chunk::kTokens * Chunk::kHeads);
  for (auto _ : state)
    attend_causal(chunk.queries, chunk.k.rows, chunk.k.rows, {},
                  {out.data(), stride, log_sums.data(), Chunk::kHeads}, 0, 1);
  tell_speed(state, 2 * chunk.operations());
}

void causal_sums(benchmark::State& state) {
  const Chunk chunk(static_cast<int>(state.range(0)), state.range(1) != 0);
  const std::vector<float> log_sums(Chunk::kTokens * Chunk::kHeads, 9);
  const size_t rows = Chunk::kPast + Chunk::kTokens;
  std::vector<float> sums(Chunk::kHeads * rows);
  for (auto _ : state)
    add_causal_sums(chunk.queries, chunk.k.rows, {log_sums.data(), Chunk::kHeads}, sums.data(), rows, 0, 1);
  tell_speed(state, chunk.operations());
}

/// A choice again: all stored keys of a head with the newest queries that share it.
void score(benchmark::State& state) {
  constexpr int64_t kTokens = 16384;
  constexpr int kShare = 7;
  const auto type = static_cast<ggml_type>(state.range(0));
  const auto d = static_cast<int>(state.range(1));
  const Rows k(type, d, kTokens, 1);
  const auto q = random_numbers(static_cast<size_t>(kShare * d));
  std::vector<float> out(kShare * kTokens);
  for (auto _ : state)
    score_rows(k.rows, 0, {nullptr, 0, kTokens}, q.data(), kShare, d, {.scale = 0.1f}, out.data(), kTokens);
  state.SetLabel(ggml_type_name(type));
  state.counters["per_row"] =
      benchmark::Counter(static_cast<double>(kTokens),
                         benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

BENCHMARK(attend)
    ->ArgNames({"d", "rounded"})
    ->ArgsProduct({{64, 128, 256}, {0, 1}})
    ->Unit(benchmark::kMillisecond);
BENCHMARK(causal_sums)
    ->ArgNames({"d", "rounded"})
    ->ArgsProduct({{64, 128}, {0, 1}})
    ->Unit(benchmark::kMillisecond);
BENCHMARK(score)
    ->ArgNames({"type", "d"})
    ->ArgsProduct({{GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0}, {64, 128}})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace windowkv

BENCHMARK_MAIN();
