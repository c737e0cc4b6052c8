// Attention over rows where they lie, against plain loops in double precision.
#include "backend/row_kernels.h"

#include <fmt/format.h>
#include <ggml.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "backend/processor.h"

namespace windowkv::test {
namespace {

constexpr int64_t kHeads = 2;

/// Random rows [d_head, kHeads, tokens] of a type, and the values they stand for.
struct Rows {
  Rows(ggml_type type, int d, int64_t tokens, unsigned seed) : d_head(d), row(ggml_row_size(type, d)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    values.resize(static_cast<size_t>(kHeads * tokens * d));
    for (auto& x : values) x = normal(random);
    bytes.resize(row * static_cast<size_t>(kHeads * tokens));
    const auto* traits = ggml_get_type_traits(type);
    for (int64_t i = 0; i < kHeads * tokens; ++i) {
      traits->from_float_ref(&values[static_cast<size_t>(i * d)], &bytes[static_cast<size_t>(i) * row], d);
      traits->to_float(&bytes[static_cast<size_t>(i) * row], &values[static_cast<size_t>(i * d)], d);
    }
    rows = {type, bytes.data(), row * kHeads, row};
  }
  const float* at(int64_t token, int64_t head) const {
    return &values[static_cast<size_t>((token * kHeads + head) * d_head)];
  }
  int64_t d_head;
  size_t row;
  std::vector<float> values;
  std::vector<char> bytes;
  HostRows rows;
};

struct Shape {
  ggml_type type;
  int d_head;
  int share;
};

class RowKernels : public testing::TestWithParam<Shape> {
 protected:
  static constexpr int64_t kTokens = 333;
  const Shape shape = GetParam();
  Rows k{shape.type, shape.d_head, kTokens, 1};
  Rows v{shape.type, shape.d_head, kTokens, 2};
  std::vector<float> q = random_queries();
  LogitScale logits{.scale = 1 / std::sqrt(static_cast<float>(shape.d_head))};

  std::vector<float> random_queries() const {
    std::mt19937 random(3);
    std::normal_distribution<float> normal(0, 2);
    std::vector<float> out(static_cast<size_t>(shape.share * shape.d_head));
    for (auto& x : out) x = normal(random);
    return out;
  }
  /// Queries as products of whole numbers take them: rounded in blocks, the largest to `top`.
  static std::vector<float> rounded(std::vector<float> q, float top) {
    for (size_t first = 0; first < q.size(); first += 32) {
      float most = 0;
      for (size_t i = 0; i < 32; ++i) most = std::max(most, std::fabs(q[first + i]));
      for (size_t i = 0; i < 32; ++i)
        q[first + i] = std::nearbyint(q[first + i] * (top / most)) * (most / top);
    }
    return q;
  }
  double score(int column, int64_t token, int64_t head) const {
    double sum = 0;
    for (int i = 0; i < shape.d_head; ++i)
      sum += static_cast<double>(q[static_cast<size_t>(column * shape.d_head + i)]) *
             static_cast<double>(k.at(token, head)[i]);
    sum *= static_cast<double>(logits.scale);
    const double cap = static_cast<double>(logits.softcap);
    return cap > 0 ? cap * std::tanh(sum / cap) : sum;
  }
  /// Attention of a query head over some tokens.
  std::vector<double> expected(int column, int64_t head, const std::vector<int32_t>& tokens) const {
    std::vector<double> out(static_cast<size_t>(shape.d_head), 0);
    double weight = 0, top = -1e300;
    for (const int32_t token : tokens) top = std::max(top, score(column, token, head));
    for (const int32_t token : tokens) {
      const double w = std::exp(score(column, token, head) - top);
      weight += w;
      for (size_t i = 0; i < out.size(); ++i) out[i] += w * static_cast<double>(v.at(token, head)[i]);
    }
    for (auto& x : out) x /= weight;
    return out;
  }
  /// What ranges of rows, one after another, add up to.
  void check(int64_t head, const std::vector<RowRange>& ranges, const std::vector<int32_t>& tokens) const {
    const auto d = static_cast<size_t>(shape.d_head), share = static_cast<size_t>(shape.share);
    std::vector<float> sums(share * d, 0), weights(share, 0), highest(share, -INFINITY);
    std::vector<AttentionState> states;
    for (size_t h = 0; h < share; ++h) states.push_back({&sums[h * d], &weights[h], &highest[h]});
    for (const auto& range : ranges)
      attend_rows(k.rows, v.rows, head, range, q.data(), shape.share, shape.d_head, logits, states.data());
    for (size_t h = 0; h < share; ++h) {
      const auto want = expected(static_cast<int>(h), head, tokens);
      for (size_t i = 0; i < d; ++i)
        ASSERT_NEAR(static_cast<double>(sums[h * d + i] / weights[h]), want[i], 2e-6) << h << " " << i;
    }
  }
};

std::vector<int32_t> numbers(int32_t first, int32_t count) {
  std::vector<int32_t> out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), first);
  return out;
}

TEST_P(RowKernels, AttendToRuns) {
  ASSERT_TRUE(row_kernels_take(shape.type, shape.d_head));
  for (int count : {1, 7, 31, 32, 33, 333}) check(1, {{nullptr, 0, count}}, numbers(0, count));
  check(0, {{nullptr, 100, 57}, {nullptr, 157, 1}, {nullptr, 158, 90}}, numbers(100, 148));
}

TEST_P(RowKernels, AttendToLists) {
  std::vector<int32_t> list;
  for (int32_t i = 3; i < kTokens; i += 1 + i % 5) list.push_back(i);
  check(1, {{list.data(), 0, static_cast<int64_t>(list.size())}}, list);
  const std::vector<int32_t> part(list.begin() + 10, list.begin() + 50);
  check(0, {{list.data(), 10, 40}}, part);
}

// A later row may outweigh all before it, and most may weigh nothing.
TEST_P(RowKernels, AttendWhereOneRowOutweighsTheRest) {
  logits.scale = 40;
  check(0, {{nullptr, 0, kTokens}}, numbers(0, kTokens));
}

TEST_P(RowKernels, AttendWhereScoresAreBounded) {
  for (const float cap : {0.5f, 3.0f, 50.0f}) {
    logits.softcap = cap;
    check(0, {{nullptr, 0, kTokens}}, numbers(0, kTokens));
  }
  logits = {40, 2};  // nearly all of them are at the bound
  check(1, {{nullptr, 0, kTokens}}, numbers(0, kTokens));
}

TEST_P(RowKernels, ScoreRows) {
  constexpr int64_t kStride = 400;
  const auto given = q;
  for (const float cap : {0.1f, 4.0f, 0.0f}) {
    logits.softcap = cap;
    std::vector<float> out(static_cast<size_t>(shape.share * kStride), -1);
    score_rows(k.rows, 1, {nullptr, 11, 300}, given.data(), shape.share, shape.d_head, logits, out.data(),
               kStride);
    if (shape.type == GGML_TYPE_Q8_0 && cap == 0 && vectors_of_processor() != Vectors::kBaseline)
      q = rounded(given, vectors_of_processor() == Vectors::kVnni ? 127 : 32767);
    for (int c = 0; c < shape.share; ++c) {
      for (int64_t i = 0; i < 300; ++i)
        ASSERT_NEAR(static_cast<double>(out[static_cast<size_t>(c * kStride + i)]), score(c, 11 + i, 1),
                    5e-6);
      EXPECT_EQ(out[static_cast<size_t>(c * kStride + 300)], -1) << "written past the end";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RowKernels,
                         testing::Values(Shape{GGML_TYPE_F16, 64, 7}, Shape{GGML_TYPE_F16, 80, 1},
                                         Shape{GGML_TYPE_F16, 128, 6}, Shape{GGML_TYPE_F16, 8, 2},
                                         Shape{GGML_TYPE_BF16, 64, 3}, Shape{GGML_TYPE_BF16, 256, 4},
                                         Shape{GGML_TYPE_Q8_0, 64, 7}, Shape{GGML_TYPE_Q8_0, 96, 2},
                                         Shape{GGML_TYPE_Q4_0, 128, 8}, Shape{GGML_TYPE_Q4_0, 32, 1}),
                         [](const auto& test) {
                           return fmt::format("{}_{}_{}", ggml_type_name(test.param.type), test.param.d_head,
                                              test.param.share);
                         });

TEST(Softmax, OfScores) {
  for (int64_t n : {1, 8, 31, 32, 33, 100}) {
    std::vector<float> scores(static_cast<size_t>(n));
    for (size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i % 7) - (i % 5 == 0 ? 200 : 0);
    double top = -1e9, sum = 0;
    for (const float x : scores) top = std::max<double>(top, x);
    for (const float x : scores) sum += std::exp(static_cast<double>(x) - top);
    auto weights = scores;
    const float factor = exp_scores(weights.data(), n);
    for (size_t i = 0; i < scores.size(); ++i)
      ASSERT_NEAR(static_cast<double>(weights[i] * factor),
                  std::exp(static_cast<double>(scores[i]) - top) / sum, 1e-6)
          << n << " " << i;
  }
}

}  // namespace
}  // namespace windowkv::test
