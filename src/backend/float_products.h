#pragma once

// Products of queries and rows, and of weights and rows, in float32. WordProducts has the same parts.

#include <cstdint>

#include "backend/panels.h"
#include "backend/row_kernels.h"

namespace windowkv {

template <bool wide>
struct FloatProducts {
  using Vector = Widest<wide>;
  static constexpr int64_t kWidth = sizeof(Vector) / sizeof(float);
  static constexpr int64_t kPanel = 2 * kWidth;
  /// What fits the registers: sums of so many rows with a panel. Divides every d (row_kernels_take()).
  static constexpr int64_t kRows = wide ? 8 : 4;

  /// As many as stay in a core's cache with what they sum up, beside a block.
  static int64_t most_queries(int64_t d) {
    constexpr int64_t kBytes = int64_t{128} << 10;
    return kBytes / (2 * d * static_cast<int64_t>(sizeof(float)));
  }

  /// In panels [d, panel].
  class Queries {
   public:
    Queries(int64_t most, int64_t d) : d_(d), panels_(rounded_up(most, kPanel) * d) {}

    /// q · scale; no query where q is null.
    INLINE void set(int64_t i, const float* q, float scale) {
      float* to = panels_.data() + i / kPanel * d_ * kPanel + i % kPanel;
      for (int64_t j = 0; j < d_; ++j) to[j * kPanel] = q != nullptr ? q[j] * scale : 0;
    }

    const float* panel(int64_t number) const { return panels_.data() + number * d_ * kPanel; }

   private:
    int64_t d_;
    Floats panels_;
  };

  /// Rows of a KV head, a block at a time.
  class Block {
   public:
    explicit Block(int64_t d) : d_(d), wide_(kBlockRows * d) {}

    INLINE void read(const HostRows& rows, int64_t head, int64_t first, int64_t count) {
      for (int64_t i = 0; i < count; ++i)
        widen_row(rows.type, rows.at(first + i, head), wide_.data() + i * d_, d_);
    }

    int64_t d() const { return d_; }
    const float* data() const { return wide_.data(); }

   private:
    int64_t d_;
    Floats wide_;
  };
  using Keys = Block;
  using Values = Block;

  /// Scores [count, panel], or some more rows.
  INLINE static void score(const Queries& queries, int64_t panel, const Keys& keys, int64_t count,
                           float* scores) {
    for (int64_t i = 0; i < count; i += kRows)
      multiply<false>(keys.data() + i * keys.d(), keys.d(), 1, keys.d(), queries.panel(panel),
                      scores + i * kPanel, nullptr);
  }

  /// A panel's scores [count, panel] become weights, relative to the highest score so far, which they may
  /// raise.
  INLINE static void weigh(PanelWeights& weights, int64_t count, float* highest, float* sums) {
    float* scores = weights.of.data();
    for (int64_t half = 0; half < kPanel; half += kWidth) {
      const auto before = load<Vector>(highest + half);
      auto most = before;
      for (int64_t i = 0; i < count; ++i) {
        const auto x = load<Vector>(scores + i * kPanel + half);
        most = x > most ? x : most;
      }
      Vector sum = {};
      for (int64_t i = 0; i < count; ++i) {
        const auto x = exp_lanes(load<Vector>(scores + i * kPanel + half) - most);
        sum += x;
        store(x, scores + i * kPanel + half);
      }
      const auto factor = exp_lanes(before - most);
      store(load<Vector>(sums + half) * factor + sum, sums + half);
      store(most, highest + half);
      store(factor, weights.keep.data() + half);
    }
  }

  /// sums [d, panel] = sums · keep + values · weights.
  INLINE static void add(const Values& values, const PanelWeights& weights, int64_t count, float* sums) {
    for (int64_t i = 0; i < values.d(); i += kRows)
      multiply<true>(values.data() + i, 1, values.d(), count, weights.of.data(), sums + i * kPanel,
                     weights.keep.data());
  }

 private:
  /// c [kRows, panel] = (c · keep, where there is one) + a · b: a's element of row r and depth i at
  /// r · row_step + i · depth_step, b [depth, panel].
  template <bool keeps>
  INLINE static void multiply(const float* a, int64_t row_step, int64_t depth_step, int64_t depth,
                              const float* b, float* c, const float* keep) {
    Vector sums[kRows][2] = {};
    for (int64_t i = 0; i < depth; ++i) {
      const auto left = load<Vector>(b + i * kPanel);
      const auto right = load<Vector>(b + i * kPanel + kWidth);
#pragma GCC unroll 8
      for (int64_t r = 0; r < kRows; ++r) {
        const float x = a[r * row_step + i * depth_step];
        sums[r][0] += left * x;
        sums[r][1] += right * x;
      }
    }
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t half = 0; half < 2; ++half) {
        float* at = c + r * kPanel + half * kWidth;
        if (keeps) sums[r][half] += load<Vector>(at) * load<Vector>(keep + half * kWidth);
        store(sums[r][half], at);
      }
  }
};

}  // namespace windowkv
