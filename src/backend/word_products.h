#pragma once

// Products of 16-bit whole numbers, two at once in each lane: twice as many an instruction as in float32, by
// AVX-512 VNNI, or by AVX2 with another instruction that sums them up. Each query, each row of K, each column
// of a block of V and each query's weights of a block are scaled so that their norm is below 2¹⁵·⁵. By the
// inequality of Cauchy and Schwarz no sum of products then exceeds 2³¹, however many there are, and rounding
// changes a score by 10⁻⁵ of the product of the norms, about what rounding K to F16 has changed before.

#include <algorithm>
#include <cstdint>

#include "backend/panels.h"
#include "backend/row_kernels.h"
#include "backend/word_tile.h"

namespace windowkv {

/// Rows of a KV head, a block at a time: pairs of whole numbers, and scales.
class WordBlock {
 public:
  int64_t d() const { return d_; }
  const int32_t* pairs() const { return pairs_.data(); }
  const float* scales() const { return scales_.data(); }

 protected:
  /// `widened`: rows in float32 at once.
  WordBlock(int64_t d, int64_t widened, int64_t scales)
      : d_(d), wide_(widened * d), pairs_(kBlockRows / 2 * d), scales_(scales) {}

  int64_t d_;
  Floats wide_;
  Aligned<int32_t> pairs_;
  Floats scales_;
};

/// [rows, d/2] pairs of elements, and a scale for each row.
class WordKeys : public WordBlock {
 public:
  explicit WordKeys(int64_t d) : WordBlock(d, kLanes, kBlockRows) {}
  void read(const HostRows& rows, int64_t head, int64_t first, int64_t count);
};

/// [rows/2, d] pairs of rows, and a scale for each column.
class WordValues : public WordBlock {
 public:
  explicit WordValues(int64_t d) : WordBlock(d, kBlockRows, d) {}
  void read(const HostRows& rows, int64_t head, int64_t first, int64_t count);
};

/// What FloatProducts says of its parts holds here too. On x86 alone; `wide` by AVX-512 VNNI, else by AVX2.
template <bool wide>
struct WordProducts {
  using Vector = Widest<wide>;
  static constexpr int64_t kWidth = WordTile<wide>::kWidth;
  static constexpr int64_t kPanel = WordTile<wide>::kPanel;

  /// More than in float32, as a block takes longer to read: processors with VNNI have caches of 1 MiB and
  /// more, most with AVX2 of 512 KiB.
  static int64_t most_queries(int64_t d) {
    constexpr int64_t kMost = 512, kBytes = int64_t{wide ? 512 : 384} << 10;
    return std::min(kMost, kBytes / (d * static_cast<int64_t>(sizeof(int16_t) + sizeof(float))));
  }

  /// In panels [d/2, panel] of pairs, and a scale for each.
  class Queries {
   public:
    Queries(int64_t most, int64_t d)
        : d_(d), panels_(rounded_up(most, kPanel) * d / 2), scales_(rounded_up(most, kPanel)), row_(d / 2) {}
    void set(int64_t i, const float* q, float scale);
    const int32_t* panel(int64_t number) const { return panels_.data() + number * d_ / 2 * kPanel; }
    const float* scales(int64_t number) const { return scales_.data() + number * kPanel; }

   private:
    int64_t d_;
    Aligned<int32_t> panels_;
    Floats scales_;
    Aligned<int32_t> row_;
  };

  using Keys = WordKeys;
  using Values = WordValues;

  static void score(const Queries& queries, int64_t panel, const Keys& keys, int64_t count, float* scores);

  /// Weights become pairs of rows [count/2, panel], relative to the highest score of the block: relative to
  /// the highest of all, small ones would be rounded to nothing.
  INLINE static void weigh(PanelWeights& weights, int64_t count, float* highest, float* sums) {
    alignas(64) float squares[kPanel];
    for (int64_t half = 0; half < kPanel; half += kWidth) {
      float* scores = weights.of.data() + half;
      auto top = Vector{} + kLowest;
      for (int64_t i = 0; i < count; ++i) {
        const auto x = load<Vector>(scores + i * kPanel);
        top = x > top ? x : top;
      }
      Vector sum = {}, square = {};
      for (int64_t i = 0; i < count; ++i) {
        const auto x = exp_lanes(load<Vector>(scores + i * kPanel) - top);
        sum += x;
        square += x * x;
        store(x, scores + i * kPanel);
      }
      const auto before = load<Vector>(highest + half);
      const auto most = top > before ? top : before;
      const auto keep = exp_lanes(before - most);
      const auto factor = exp_lanes(top - most);
      store(load<Vector>(sums + half) * keep + sum * factor, sums + half);
      store(most, highest + half);
      store(keep, weights.keep.data() + half);
      store(factor, weights.factor.data() + half);
      store(square, squares + half);
    }
    round(weights, squares, count);
  }

  static void add(const Values& values, const PanelWeights& weights, int64_t count, float* sums);

 private:
  /// To whole numbers, of each query's weights [count] and the sum of their squares.
  static void round(PanelWeights& weights, const float* squares, int64_t count);
};

}  // namespace windowkv
