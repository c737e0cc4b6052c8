// Scores of free windows and how rows and heads are combined, in the graph against plain loops written from
// the definitions in the headers.
#include "policy/run_scores.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "backend/graph.h"
#include "policy/window_scores.h"
#include "windowkv/head_scores.h"

namespace windowkv::test {
namespace {

using Lists = std::vector<std::vector<float>>;

Lists random_lists(int64_t lists, int64_t tokens, uint64_t seed) {
  std::mt19937_64 random(seed);
  Lists out(static_cast<size_t>(lists), std::vector<float>(static_cast<size_t>(tokens)));
  // Attention: most of it next to nothing, some of it large.
  for (auto& list : out)
    for (auto& x : list) x = std::exp2(-static_cast<float>(random() % 2000) / 100.0f);
  return out;
}

/// Runs a graph on lists [tokens, lists].
class Runner {
 public:
  template <typename F>
  Lists run(const Lists& in, F&& build) {
    Graph graph;
    auto* input =
        graph.input(GGML_TYPE_F32, static_cast<int64_t>(in[0].size()), static_cast<int64_t>(in.size()));
    auto* out = graph.output(build(graph.ctx(), input));
    scheduler_.allocate(graph);
    for (size_t i = 0; i < in.size(); ++i)
      ggml_backend_tensor_set(input, in[i].data(), i * input->nb[1], input->nb[1]);
    scheduler_.compute(graph);
    Lists lists(static_cast<size_t>(out->ne[1]), std::vector<float>(static_cast<size_t>(out->ne[0])));
    for (size_t i = 0; i < lists.size(); ++i)
      ggml_backend_tensor_get(out, lists[i].data(), i * out->nb[1], out->nb[1]);
    return lists;
  }

 private:
  Backends backends_{"cpu", 1};
  Scheduler scheduler_{backends_};
};

/// s'_j = max( s_{j−d} · 2^(−2d/ω) for 0 ≤ d < 2^(⌊log2 ω⌋+1),  s_{j+1} / 2 ).
std::vector<double> plain_runs(const std::vector<float>& s, int omega) {
  size_t reach = 1;
  while (reach <= static_cast<size_t>(omega)) reach *= 2;
  std::vector<double> out(s.size(), 0.0);
  for (size_t j = 0; j < s.size(); ++j) {
    for (size_t d = 0; d < reach && d <= j; ++d)
      out[j] =
          std::max(out[j], static_cast<double>(s[j - d]) * std::exp2(-2.0 * static_cast<double>(d) / omega));
    if (j + 1 < s.size()) out[j] = std::max(out[j], static_cast<double>(s[j + 1]) / 2);
  }
  return out;
}

TEST(RunScores, EqualThePlainLoops) {
  Runner runner;
  for (int omega : {1, 2, 3, 5, 7, 8, 12, 16, 24, 31, 32, 100})
    for (int64_t tokens : {1, 2, 3, 7, 8, 9, 16, 33, 500})
      for (int64_t lists : {1, 3}) {
        SCOPED_TRACE(fmt::format("ω {} tokens {} lists {}", omega, tokens, lists));
        const auto in =
            random_lists(lists, tokens, static_cast<uint64_t>(omega) * 1000 + static_cast<uint64_t>(tokens));
        for (const bool on_cpu : {false, true}) {
          const auto out =
              runner.run(in, [&](auto* ctx, auto* t) { return build_run_scores(ctx, t, omega, on_cpu); });
          ASSERT_EQ(out.size(), in.size());
          for (size_t l = 0; l < in.size(); ++l) {
            const auto expected = plain_runs(in[l], omega);
            ASSERT_EQ(out[l].size(), expected.size());
            for (size_t j = 0; j < expected.size(); ++j)
              ASSERT_NEAR(out[l][j], expected[j], 2e-6 * expected[j])
                  << "list " << l << " token " << j << (on_cpu ? " on the CPU" : "");
          }
        }
      }
}

TEST(RunScores, OneTokenGivesARunThatEndsWhereItsReachDoes) {
  Lists in(1, std::vector<float>(60, 0.0f));
  in[0][20] = 1.0f;
  const auto out = Runner().run(in, [](auto* ctx, auto* t) { return build_run_scores(ctx, t, 16); })[0];
  EXPECT_EQ(out[18], 0.0f);
  EXPECT_EQ(out[19], 0.5f);
  EXPECT_EQ(out[20], 1.0f);
  EXPECT_EQ(out[28], 0.5f);  // half as much every ω/2 tokens
  EXPECT_EQ(out[36], 0.25f);
  EXPECT_GT(out[20 + 31], 0.0f);
  EXPECT_EQ(out[20 + 32], 0.0f);
}

TEST(CombinedHeads, MeanMaxAndByKvHead) {
  Runner runner;
  const auto in = random_lists(6, 40, 3);
  auto combined = [&](Heads heads) {
    return runner.run(in, [&](auto* ctx, auto* t) { return build_combined_heads(ctx, t, 2, heads); });
  };
  const auto mean = combined(Heads::kMean);
  const auto most = combined(Heads::kMax);
  const auto by_kv = combined(Heads::kPerKv);
  ASSERT_EQ(mean.size(), 1u);
  ASSERT_EQ(most.size(), 1u);
  ASSERT_EQ(by_kv.size(), 2u);
  for (size_t j = 0; j < 40; ++j) {
    double sum = 0;
    double low = 0;
    float top = 0;
    for (size_t h = 0; h < 6; ++h) {
      sum += static_cast<double>(in[h][j]);
      low += h < 3 ? static_cast<double>(in[h][j]) : 0.0;
      top = std::max(top, in[h][j]);
    }
    EXPECT_NEAR(mean[0][j], sum / 6, 1e-6 * sum);
    EXPECT_FLOAT_EQ(most[0][j], top);
    EXPECT_NEAR(by_kv[0][j], low / 3, 1e-6 * sum);
    EXPECT_NEAR(by_kv[1][j], (sum - low) / 3, 1e-6 * sum);
  }
}

/// Attention by row of queries and keys that are small whole numbers, causal inside the observation window;
/// or of queries behind the prompt, which our own kernels score.
TEST(RowsMax, IsTheMostThatOneRowGives) {
  constexpr int64_t kTokens = 50, kRows = 7, kDim = 8, kHeads = 4, kKv = 2;
  std::mt19937_64 random(9);
  std::vector<float> q(kDim * kRows * kHeads);
  std::vector<float> k(kDim * kKv * kTokens);
  for (auto& x : q) x = static_cast<float>(random() % 9) - 4;
  for (auto& x : k) x = static_cast<float>(random() % 9) - 4;
  Backends backends("cpu", 1);
  Scheduler scheduler(backends);
  std::vector<ggml_fp16_t> halves(k.size());
  ggml_fp32_to_fp16_row(k.data(), halves.data(), static_cast<int64_t>(k.size()));
  const std::vector<int64_t> some_keys = {kTokens, kTokens - kRows, 1};
  for (auto [rows, softcap, behind] : {std::tuple{Rows::kSum, 0.0f, false},
                                       {Rows::kMax, 0.0f, false},
                                       {Rows::kSum, 3.0f, false},
                                       {Rows::kMax, 3.0f, false},
                                       {Rows::kSum, 0.0f, true},
                                       {Rows::kMax, 3.0f, true}})
    for (int64_t keys : some_keys) {
      SCOPED_TRACE(fmt::format("{} of {} keys, a cap of {}, behind the prompt: {}", to_string(rows), keys,
                               softcap, behind));
      Graph graph;
      auto* ctx = graph.ctx();
      auto* q_in = graph.input(GGML_TYPE_F32, kDim, kRows * kHeads);
      auto* k_in = graph.input(GGML_TYPE_F16, kDim * kKv, kTokens);
      LayerView view;
      view.q = ggml_reshape_3d(ctx, q_in, kDim, kRows, kHeads);
      view.k = ggml_view_3d(ctx, k_in, kDim, kTokens, kKv, k_in->nb[1], kDim * sizeof(ggml_fp16_t), 0);
      view.scale = 0.25f;
      view.softcap = softcap;
      view.on_cpu = behind;
      view.after_prompt = behind ? kRows : 0;
      auto* out = graph.output(build_observed_by_head(ctx, view, keys, rows));
      ASSERT_EQ(out->ne[0], keys);
      ASSERT_EQ(out->ne[1], kHeads);
      scheduler.allocate(graph);
      ggml_backend_tensor_set(q_in, q.data(), 0, ggml_nbytes(q_in));
      ggml_backend_tensor_set(k_in, halves.data(), 0, ggml_nbytes(k_in));
      scheduler.compute(graph);
      std::vector<float> got(static_cast<size_t>(keys * kHeads));
      ggml_backend_tensor_get(out, got.data(), 0, ggml_nbytes(out));
      for (int64_t h = 0; h < kHeads; ++h) {
        std::vector<double> expected(kTokens, 0.0);
        for (int64_t i = 0; i < kRows; ++i) {
          std::vector<double> e(kTokens, 0.0);
          double sum = 0;
          for (int64_t j = 0; j < (behind ? kTokens : kTokens - kRows + i + 1); ++j) {
            double dot = 0;
            for (int64_t x = 0; x < kDim; ++x)
              dot += static_cast<double>(q[static_cast<size_t>((h * kRows + i) * kDim + x)]) *
                     k[static_cast<size_t>((j * kKv + h / 2) * kDim + x)];
            dot *= 0.25;
            if (softcap > 0) dot = softcap * std::tanh(dot / softcap);
            sum += e[static_cast<size_t>(j)] = std::exp(dot);
          }
          for (size_t j = 0; j < e.size(); ++j)
            expected[j] = rows == Rows::kSum ? expected[j] + e[j] / sum : std::max(expected[j], e[j] / sum);
        }
        for (int64_t j = 0; j < keys; ++j)
          ASSERT_NEAR(got[static_cast<size_t>(h * keys + j)], expected[static_cast<size_t>(j)],
                      2e-5 * expected[static_cast<size_t>(j)] + 1e-9)
              << "head " << h << " token " << j;
      }
    }
}

}  // namespace
}  // namespace windowkv::test
