// Attention of prompts on the CPU, against plain loops in double precision.
#include "engine/prefill_attention.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "backend/causal_attention.h"
#include "backend/processor.h"
#include "cache/kv_arena.h"
#include "cache/kv_type.h"

namespace windowkv::test {
namespace {

struct Case {
  int n_head, n_head_kv, d_head;
  int64_t keys, t, window;
  bool sinks = false;
  float softcap = 0;
  bool begins = false;  ///< whether KV heads begin at different rows
  KvType type = KvType::kF16;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << fmt::format(
      "{} heads, {} KV heads of {}, {} keys, {} queries, a window of {}, sinks: {}, a cap of {}, "
      "begins: {}, {}",
      c.n_head, c.n_head_kv, c.d_head, c.keys, c.t, c.window, c.sinks, c.softcap, c.begins,
      to_string(c.type));
}

std::vector<float> values(std::mt19937& random, int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  for (auto& x : out) x = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
  return out;
}

class PrefillAttentionOf : public testing::TestWithParam<Case> {
 protected:
  PrefillAttentionOf()
      : backends_("cpu", 2),
        segment_(memory(), std::vector<KvSegment::Run>{{c_.keys, 1, 0}}, meter_),
        q_(values(random_, int64_t{c_.d_head} * c_.n_head * c_.t)),
        k_(stored(segment_.layer(0).k())),
        v_(stored(segment_.layer(0).v())),
        sinks_(c_.sinks ? values(random_, c_.n_head) : std::vector<float>{}) {
    for (int h = 0; h < c_.n_head_kv && c_.begins; ++h) begins_.push_back(3 * h);
  }

  std::shared_ptr<KvMemory> memory() {
    hp_.n_head = c_.n_head;
    hp_.n_head_kv = c_.n_head_kv;
    hp_.d_head = c_.d_head;
    return std::make_shared<KvMemory>(backends_, hp_, KvTypes{c_.type, c_.type},
                                      std::vector<int64_t>{c_.keys});
  }

  /// Fills rows and returns what their type makes of it.
  std::vector<float> stored(ggml_tensor* rows) {
    auto x = values(random_, hp_.kv_row() * c_.keys);
    std::vector<char> bytes(ggml_nbytes(rows));
    const auto* traits = ggml_get_type_traits(to_ggml(c_.type));
    traits->from_float_ref(x.data(), bytes.data(), static_cast<int64_t>(x.size()));
    traits->to_float(bytes.data(), x.data(), static_cast<int64_t>(x.size()));
    ggml_backend_tensor_set(rows, bytes.data(), 0, bytes.size());
    return x;
  }

  /// The part of a row of K or V that a query head reads.
  const float* row_of(const std::vector<float>& rows, int64_t key, int64_t head) const {
    return rows.data() + key * hp_.kv_row() + head / (c_.n_head / c_.n_head_kv) * c_.d_head;
  }

  double score(int64_t query, int64_t head, int64_t key) const {
    const int64_t d = c_.d_head;
    const float* q = q_.data() + (query * c_.n_head + head) * d;
    const float* k = row_of(k_, key, head);
    double x = 0;
    for (int64_t i = 0; i < d; ++i) x += static_cast<double>(q[i]) * static_cast<double>(k[i]);
    x *= static_cast<double>(kScale);
    const auto cap = static_cast<double>(c_.softcap);
    return cap > 0 ? cap * std::tanh(x / cap) : x;
  }

  /// Attention of a query to each key, what its range hides aside where `all` is false.
  std::vector<double> weights(int64_t query, int64_t head, bool all) const {
    const int64_t end = c_.keys - c_.t + query + 1;
    const int64_t kv = head / (c_.n_head / c_.n_head_kv);
    const int64_t begin = all ? 0
                              : std::max(begins_.empty() ? 0 : begins_[static_cast<size_t>(kv)],
                                         c_.window > 0 ? end - c_.window : 0);
    std::vector<double> w(static_cast<size_t>(c_.keys));
    double sum = all || sinks_.empty() ? 0 : std::exp(static_cast<double>(sinks_[static_cast<size_t>(head)]));
    for (int64_t j = begin; j < end; ++j) sum += w[static_cast<size_t>(j)] = std::exp(score(query, head, j));
    for (auto& x : w) x /= sum;
    return w;
  }

  /// Whether products are of 16-bit whole numbers.
  static bool words(bool rounded) {
    return rounded && (vectors_of_processor() == Vectors::kVnni || vectors_of_processor() == Vectors::kAvx2);
  }
  void expect_plain_loops(bool rounded);

  static constexpr float kScale = 0.2f;
  Case c_ = GetParam();
  HParams hp_;
  std::mt19937 random_{7};
  Backends backends_;
  KvMeter meter_;
  KvSegment segment_;
  std::vector<float> q_, k_, v_, sinks_;
  std::vector<int64_t> begins_;
};

void PrefillAttentionOf::expect_plain_loops(bool rounded) {
  constexpr size_t kNodes = 64;
  Scheduler scheduler(backends_, kNodes);
  const PrefillAttention attention(backends_, hp_, c_.t);
  const auto& rows = segment_.layer(0);
  Graph graph(kNodes);
  auto* ctx = graph.ctx();
  auto* input = graph.input(GGML_TYPE_F32, int64_t{c_.d_head} * c_.n_head, c_.t);
  auto* q = ggml_reshape_3d(ctx, input, c_.d_head, c_.n_head, c_.t);
  const LayerAttention layer{
      {kScale, c_.softcap}, c_.window, c_.sinks ? graph.input(GGML_TYPE_F32, c_.n_head) : nullptr, rounded};
  auto* attended = attention.build(graph, layer, q, rows, c_.keys - c_.t, 0, begins_);
  auto* out = graph.output(ggml_cont(ctx, attended));
  // Of every query and of every fifth one, with what is known of their scores and without.
  const bool known = begins_.empty() && c_.window == 0;
  std::vector<ReceivedSum> sums;
  for (auto* with : known ? std::vector<ggml_tensor*>{attended, nullptr} : std::vector<ggml_tensor*>{nullptr})
    for (const int64_t stride : {1, 5}) {
      sums.push_back({stride, graph.input(GGML_TYPE_F32, c_.keys, c_.n_head)});
      graph.output(sums.back().sums);
      attention.add_received(graph, {layer.logits, 0, layer.sinks, rounded}, q, rows, c_.keys - c_.t,
                             sums.back(), with);
    }
  scheduler.allocate(graph);
  if (c_.sinks) ggml_backend_tensor_set(layer.sinks, sinks_.data(), 0, ggml_nbytes(layer.sinks));
  ggml_backend_tensor_set(input, q_.data(), 0, ggml_nbytes(input));
  std::vector<float> received(static_cast<size_t>(c_.keys * c_.n_head), 1.0f);
  for (const auto& s : sums) ggml_backend_tensor_set(s.sums, received.data(), 0, ggml_nbytes(s.sums));
  scheduler.compute(graph);

  std::vector<float> result(q_.size());
  ggml_backend_tensor_get(out, result.data(), 0, ggml_nbytes(out));
  for (int64_t i = 0; i < c_.t; ++i)
    for (int64_t h = 0; h < c_.n_head; ++h) {
      const auto w = weights(i, h, false);
      std::vector<double> expected(static_cast<size_t>(c_.d_head));
      for (int64_t j = 0; j < c_.keys; ++j) {
        const double weight = w[static_cast<size_t>(j)];
        const float* v = row_of(v_, j, h);
        for (auto& sum : expected) sum += weight * static_cast<double>(*v++);
      }
      for (int64_t x = 0; x < c_.d_head; ++x)
        ASSERT_NEAR(result[static_cast<size_t>((i * c_.n_head + h) * c_.d_head + x)],
                    expected[static_cast<size_t>(x)], words(rounded) ? 2e-4 : 2e-6)
            << "query " << i << " head " << h;
    }
  for (const auto& s : sums) {
    std::vector<double> expected(received.size(), 1.0);
    for (int64_t i = 0; i < c_.t; ++i) {
      if ((c_.keys - c_.t + i + 1) % s.stride != 0) continue;
      for (int64_t h = 0; h < c_.n_head; ++h) {
        const auto w = weights(i, h, true);
        for (int64_t j = 0; j < c_.keys; ++j)
          expected[static_cast<size_t>(h * c_.keys + j)] += w[static_cast<size_t>(j)];
      }
    }
    ggml_backend_tensor_get(s.sums, received.data(), 0, ggml_nbytes(s.sums));
    for (size_t i = 0; i < received.size(); ++i)
      ASSERT_NEAR(received[i], expected[i], (words(rounded) ? 2e-4 : 1e-5) * expected[i])
          << "every " << s.stride << " at " << i;
  }
}

TEST_P(PrefillAttentionOf, EqualsPlainLoops) {
  if (!attends_causally()) GTEST_SKIP() << "this processor has no vectors for it";
  for (const bool rounded : {false, true}) expect_plain_loops(rounded);
}

// What the last queries of a prompt give to each row, by as many threads as there may be.
TEST_P(PrefillAttentionOf, ObservesLikePlainLoops) {
  if (!attends_causally()) GTEST_SKIP() << "this processor has no vectors for it";
  const auto* k = segment_.layer(0).k();
  const HostRows rows{k->type, static_cast<const char*>(k->data), k->nb[1],
                      ggml_row_size(k->type, c_.d_head)};
  CausalQueries queries{.q = q_.data(),
                        .token_stride = static_cast<size_t>(c_.n_head * c_.d_head),
                        .head_stride = static_cast<size_t>(c_.d_head),
                        .tokens = c_.t,
                        .first = c_.keys - c_.t,
                        .n_head = c_.n_head,
                        .n_head_kv = c_.n_head_kv,
                        .d_head = c_.d_head,
                        .logits = {kScale, c_.softcap}};
  std::vector<float> of_queries;
  for (int64_t i = 0; i < c_.t; ++i)
    for (int64_t h = 0; h < c_.n_head; ++h) {
      double sum = 0;
      for (int64_t j = 0; j <= c_.keys - c_.t + i; ++j) sum += std::exp(score(i, h, j));
      of_queries.push_back(static_cast<float>(std::log(sum)));
    }
  const LogSums log_sums{of_queries.data(), static_cast<size_t>(c_.n_head)};
  std::vector<float> received(static_cast<size_t>(c_.keys * c_.n_head));
  for (const bool most : {false, true}) {
    std::vector<double> expected(received.size(), 0.0);
    for (int64_t i = 0; i < c_.t; ++i)
      for (int64_t h = 0; h < c_.n_head; ++h) {
        const auto w = weights(i, h, true);
        for (int64_t j = 0; j < c_.keys; ++j) {
          auto& x = expected[static_cast<size_t>(h * c_.keys + j)];
          x = most ? std::max(x, w[static_cast<size_t>(j)]) : x + w[static_cast<size_t>(j)];
        }
      }
    for (const auto& [rounded, known] : {std::pair{false, false}, {true, false}, {false, true}, {true, true}})
      for (const int nth : {1, 3, 16}) {
        queries.rounded = rounded;
        std::ranges::fill(received, -1.0f);
        for (int ith = 0; ith < nth; ++ith)
          observe_causally(queries, rows, known ? log_sums : LogSums{}, most, received.data(),
                           static_cast<size_t>(c_.keys), ith, nth);
        for (size_t i = 0; i < received.size(); ++i)
          // 10⁻⁵ of the product of the norms, which is up to 80 here, in the exponent of a single weight.
          ASSERT_NEAR(received[i], expected[i], (words(rounded) ? 8e-4 : 1e-5) * expected[i])
              << "most: " << most << ", known: " << known << ", " << nth << " threads, at " << i;
      }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, PrefillAttentionOf,
    testing::Values(Case{4, 2, 32, 100, 40, 0}, Case{3, 3, 32, 50, 50, 0, true}, Case{4, 1, 32, 33, 1, 0},
                    Case{14, 2, 64, 1300, 90, 0},  // in several tiles
                    Case{4, 2, 32, 100, 40, 30},   // a window of fewer tokens than there are queries
                    Case{4, 2, 32, 100, 40, 70, true}, Case{2, 1, 32, 50, 50, 1, true},
                    Case{2, 1, 32, 50, 50, 64}, Case{4, 1, 32, 1500, 70, 1100},
                    Case{4, 2, 32, 100, 40, 0, false, 0.5f}, Case{4, 2, 32, 100, 40, 30, true, 1.5f},
                    Case{6, 2, 104, 70, 20, 0, false, 0, true},  // a row that no register divides
                    Case{2, 2, 8, 200, 64, 0, true, 0, true}, Case{4, 1, 256, 100, 30, 0},
                    Case{6, 2, 64, 100, 40, 0, false, 0, true, KvType::kQ8_0},
                    Case{4, 2, 64, 70, 70, 20, false, 0, false, KvType::kBf16}));

}  // namespace
}  // namespace windowkv::test
