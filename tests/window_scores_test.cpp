// Window scores and their choice in the graph, against plain loops.
#include "policy/window_scores.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "backend/graph.h"
#include "policy/top_scores.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

struct Case {
  int64_t n, alpha, d, heads, kv_heads, omega, p;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << fmt::format("n{} alpha{} d{} heads{}/{} omega{} p{}", c.n, c.alpha, c.d, c.heads, c.kv_heads,
                      c.omega, c.p);
}

struct Inputs {
  std::vector<float> q;  // [heads][alpha][d]
  std::vector<float> k;  // [n][kv_heads][d], as the cache holds it
};

Inputs random_inputs(const Case& c, uint64_t seed) {
  std::mt19937_64 random(seed);
  auto uniform = [&] { return static_cast<float>(static_cast<double>(random() >> 11) * 0x1p-53 * 4 - 2); };
  Inputs in{std::vector<float>(static_cast<size_t>(c.heads * c.alpha * c.d)),
            std::vector<float>(static_cast<size_t>(c.n * c.kv_heads * c.d))};
  std::generate(in.q.begin(), in.q.end(), uniform);
  // Values that F16 holds exactly, so that both types of K have the same answer.
  for (auto& x : in.k) x = ggml_fp16_to_fp32(ggml_fp32_to_fp16(uniform()));
  return in;
}

/// Section 2 of the design, word for word.
std::vector<double> plain_scores(const Case& c, const Inputs& in) {
  const int64_t review = c.n - c.alpha;
  const int64_t windows = (review + c.omega - 1) / c.omega;
  std::vector<double> scores(static_cast<size_t>(windows), 0.0);
  for (int64_t h = 0; h < c.heads; ++h) {
    const int64_t kv = h / (c.heads / c.kv_heads);
    std::vector<double> t(static_cast<size_t>(review), 0.0);
    for (int64_t i = 0; i < c.alpha; ++i) {
      std::vector<double> row(static_cast<size_t>(review + i + 1));
      for (size_t j = 0; j < row.size(); ++j) {
        double dot = 0;
        for (int64_t x = 0; x < c.d; ++x)
          dot += static_cast<double>(in.q[static_cast<size_t>((h * c.alpha + i) * c.d + x)]) *
                 in.k[static_cast<size_t>((static_cast<int64_t>(j) * c.kv_heads + kv) * c.d + x)];
        row[j] = dot / std::sqrt(static_cast<double>(c.d));
      }
      const double top = *std::max_element(row.begin(), row.end());
      double sum = 0;
      for (auto& x : row) sum += x = std::exp(x - top);
      for (size_t j = 0; j < t.size(); ++j) t[j] += row[j] / sum;
    }
    for (int64_t w = 0; w < windows; ++w) {
      std::vector<double> window(t.begin() + w * c.omega, t.begin() + std::min(review, (w + 1) * c.omega));
      std::sort(window.rbegin(), window.rend());
      const auto p = std::min<size_t>(static_cast<size_t>(c.p), window.size());
      scores[static_cast<size_t>(w)] +=
          std::accumulate(window.begin(), window.begin() + static_cast<std::ptrdiff_t>(p), 0.0) /
          static_cast<double>(p) / static_cast<double>(c.heads);
    }
  }
  return scores;
}

/// The `keep` highest, the earlier of equal ones first; ascending.
template <typename T>
std::vector<int32_t> plain_top(const std::vector<T>& scores, int64_t keep) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(keep));
  std::sort(order.begin(), order.end());
  return order;
}

class Runner {
 public:
  std::vector<float> scores(const Case& c, const Inputs& in, ggml_type type) {
    Graph graph;
    auto* ctx = graph.ctx();
    auto* q = graph.input(GGML_TYPE_F32, c.d, c.alpha * c.heads);
    auto* k = graph.input(type, c.d * c.kv_heads, c.n);
    LayerView view;
    view.q = ggml_reshape_3d(ctx, q, c.d, c.alpha, c.heads);
    view.k = ggml_view_3d(ctx, k, c.d, c.n, c.kv_heads, k->nb[1], ggml_row_size(type, c.d), 0);
    view.scale = 1.0f / std::sqrt(static_cast<float>(c.d));
    SelectionConfig config;
    config.omega = static_cast<int>(c.omega);
    config.p = static_cast<int>(c.p);
    auto* out = graph.output(build_window_scores(ctx, view, config, c.n - view.q->ne[1]));
    scheduler_.allocate(graph);
    ggml_backend_tensor_set(q, in.q.data(), 0, ggml_nbytes(q));
    if (type == GGML_TYPE_F32) {
      ggml_backend_tensor_set(k, in.k.data(), 0, ggml_nbytes(k));
    } else {
      std::vector<ggml_fp16_t> half(in.k.size());
      ggml_fp32_to_fp16_row(in.k.data(), half.data(), static_cast<int64_t>(half.size()));
      ggml_backend_tensor_set(k, half.data(), 0, ggml_nbytes(k));
    }
    scheduler_.compute(graph);
    return read<float>(out);
  }

  /// By ggml's operations and in one of our own, which agree.
  std::vector<int32_t> top(const std::vector<float>& scores, int64_t keep) {
    const auto by_ggml = top(scores, keep, /*on_cpu=*/false);
    EXPECT_EQ(top(scores, keep, /*on_cpu=*/true), by_ggml);
    return by_ggml;
  }

  std::vector<int32_t> top(const std::vector<float>& scores, int64_t keep, bool on_cpu) {
    Graph graph;
    auto* in = graph.input(GGML_TYPE_F32, static_cast<int64_t>(scores.size()));
    auto* out = graph.output(
        build_top_scores(graph.ctx(), ggml_reshape_1d(graph.ctx(), in, in->ne[0]), keep, on_cpu));
    scheduler_.allocate(graph);
    ggml_backend_tensor_set(in, scores.data(), 0, ggml_nbytes(in));
    scheduler_.compute(graph);
    auto chosen = read<int32_t>(out);
    std::sort(chosen.begin(), chosen.end());
    return chosen;
  }

 private:
  template <typename T>
  static std::vector<T> read(ggml_tensor* tensor) {
    std::vector<T> values(static_cast<size_t>(ggml_nelements(tensor)));
    ggml_backend_tensor_get(tensor, values.data(), 0, ggml_nbytes(tensor));
    return values;
  }

  Backends backends_{"cpu", 1};
  Scheduler scheduler_{backends_};
};

class WindowScores : public testing::TestWithParam<Case> {};

TEST_P(WindowScores, EqualThePlainLoops) {
  const auto& c = GetParam();
  Runner run;
  const auto in = random_inputs(c, 7);
  const auto expected = plain_scores(c, in);
  for (auto type : {GGML_TYPE_F32, GGML_TYPE_F16}) {
    SCOPED_TRACE(ggml_type_name(type));
    const auto scores = run.scores(c, in, type);
    ASSERT_EQ(scores.size(), expected.size());
    for (size_t w = 0; w < scores.size(); ++w)
      EXPECT_NEAR(scores[w], expected[w], 2e-5 * expected[w] + 1e-9) << w;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, WindowScores,
                         testing::Values(Case{100, 4, 16, 4, 2, 8, 8},   // whole windows
                                         Case{101, 4, 16, 4, 2, 8, 8},   // last window of one token
                                         Case{103, 16, 16, 4, 2, 8, 4},  // p < ω, last window shorter than ω
                                         Case{106, 4, 16, 4, 2, 8, 6},   // last window shorter than p
                                         Case{90, 5, 32, 8, 1, 16, 8},   // one KV head
                                         Case{90, 5, 8, 6, 6, 16, 16},   // a KV head a query head
                                         Case{61, 1, 64, 14, 2, 32, 16},    // one observed token
                                         Case{20, 16, 16, 4, 4, 32, 32},    // less than one window
                                         Case{40, 32, 16, 2, 1, 1, 1},      // windows of one token
                                         Case{700, 32, 128, 4, 2, 32, 16},  // many
                                         Case{2, 1, 16, 2, 2, 8, 8}));      // one token of review

TEST(WindowScoresTies, EqualKeysGiveEqualScoresAndTheEarliestWindowsWin) {
  const Case c{8 * 12 + 4, 4, 16, 4, 2, 8, 8};
  Runner run;
  for (bool zero_queries : {false, true}) {
    auto in = random_inputs(c, 3);
    if (zero_queries) std::fill(in.q.begin(), in.q.end(), 0.0f);
    for (size_t i = 0; i < in.k.size(); ++i) in.k[i] = in.k[i % static_cast<size_t>(c.d * c.kv_heads)];
    const auto scores = run.scores(c, in, GGML_TYPE_F16);
    for (auto s : scores) EXPECT_EQ(s, scores[0]);
    EXPECT_EQ(run.top(scores, 5), (std::vector<int32_t>{0, 1, 2, 3, 4}));
  }
}

TEST(TopWindows, EqualsAStableSortWithTies) {
  Runner run;
  std::mt19937_64 random(11);
  for (int round = 0; round < 200; ++round) {
    const auto w = static_cast<int64_t>(2 + random() % 90);
    const auto values = 1 + random() % 6;  // few values, so many ties
    const int exponent = static_cast<int>(random() % 60) - 40;
    std::vector<float> scores(static_cast<size_t>(w));
    for (auto& s : scores) s = std::ldexp(static_cast<float>(random() % values), exponent);
    const auto keep = static_cast<int64_t>(1 + random() % static_cast<uint64_t>(w - 1));
    EXPECT_EQ(run.top(scores, keep), plain_top(scores, keep)) << "windows " << w << " keep " << keep;
  }
}

TEST(TopWindows, DistinctScoresOfManyWindows) {
  Runner run;
  std::mt19937_64 random(12);
  for (int64_t w : {1000, 20000}) {
    std::vector<float> scores(static_cast<size_t>(w));
    for (auto& s : scores) s = static_cast<float>(random() >> 40) * 0x1p-40f;
    for (int64_t keep : {int64_t{1}, w / 8, w - 1}) EXPECT_EQ(run.top(scores, keep), plain_top(scores, keep));
  }
}

TEST(TopWindows, AllZeroKeepsTheEarliest) {
  Runner run;
  EXPECT_EQ(run.top(std::vector<float>(9, 0.0f), 3), (std::vector<int32_t>{0, 1, 2}));
}

TEST(TopWindows, ScoresTooSmallForNormalFloats) {
  // Attention far from every window underflows; the order of what is left still counts.
  Runner run;
  const std::vector<float> scores = {0.0f, 1e-42f, 0.0f, 3e-42f, 1e-42f, 2e-39f};
  EXPECT_EQ(run.top(scores, 2), (std::vector<int32_t>{3, 5}));
  EXPECT_EQ(run.top(scores, 3), (std::vector<int32_t>{1, 3, 5}));
}

TEST(TopWindows, AreExactUpToTheirLimitAndRefusedBeyond) {
  // All equal but the last: counts and numbers as large as they become.
  std::vector<float> scores(static_cast<size_t>(kMostScores), 1.0f);
  scores.back() = 2.0f;
  const int64_t keep = kMostScores - 1;
  const auto chosen = Runner().top(scores, keep);
  ASSERT_EQ(chosen.size(), static_cast<size_t>(keep));
  EXPECT_EQ(chosen[static_cast<size_t>(keep) - 2], keep - 2);  // the earliest of the equal ones
  EXPECT_EQ(chosen.back(), kMostScores - 1);
  Graph graph;
  auto* more = graph.input(GGML_TYPE_F32, kMostScores + 1);
  EXPECT_THROW(build_top_scores(graph.ctx(), more, 5), Error);
}

}  // namespace
}  // namespace windowkv::test
