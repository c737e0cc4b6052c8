// Sixteen rows at a time are turned on their side, so that a lane of a register belongs to a row, and
// multiplied with a few queries as a block of K is with a panel of them (word_tile.h): here rows are the
// panel.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

#include "backend/ggml_blocks.h"
#include "backend/q8_scores.h"
#include "backend/word_tile.h"

namespace windowkv {

#ifdef __x86_64__

namespace {

using Tile = WordTile<false>;

constexpr int64_t kPairs = kBlock / 2;  // of a block
constexpr int64_t kAhead = 64;          // rows that are fetched before they are needed
/// The most that a block's sum of products with bytes may be is 2²⁷ of it.
constexpr float kMostWhole = 32767;

/// Queries by blocks: pairs [pairs, columns, blocks] and scales [columns, blocks], columns in whole tiles.
class Queries {
 public:
  Queries(const float* q, int64_t columns, int64_t d, float scale)
      : columns_(rounded_up(columns, Tile::kRows)), pairs_(columns_ * d / 2), scales_(columns_ * d / kBlock) {
    for (int64_t b = 0; b < d / kBlock; ++b)
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t at = b * columns_ + c;
        scales_.data()[at] = round(q + c * d + b * kBlock, pairs_.data() + at * kPairs) * scale;
      }
  }
  int64_t columns() const { return columns_; }
  WordPairs at(int64_t block, int64_t column) const {
    const int64_t index = block * columns_ + column;
    return {pairs_.data() + index * kPairs, scales_.data() + index, kPairs, 1};
  }

 private:
  /// In the order in which turn() has a row's: of each four the first and third, then the second and fourth.
  static float round(const float* x, int32_t* pairs) {
    float most = 0;
    for (int64_t i = 0; i < kBlock; ++i) most = std::max(most, std::fabs(x[i]));
    const float factor = most > 0 ? kMostWhole / most : 0;
    int16_t whole[kBlock];
    for (int64_t i = 0; i < kBlock; i += 4)
      for (int64_t j = 0; j < 4; ++j)
        whole[i + j / 2 + j % 2 * 2] = static_cast<int16_t>(std::lrint(x[i + j] * factor));
    std::memcpy(pairs, whole, sizeof whole);
    return most / kMostWhole;
  }

  int64_t columns_;
  Aligned<int32_t> pairs_;
  Floats scales_;
};

/// A block of eight rows as pairs [pairs, panel], a row in each lane.
AVX2 inline void turn(const char* rows, size_t stride, int32_t* pairs) {
  __m256i x[8], y[8];
  for (size_t r = 0; r < 8; ++r)
    x[r] =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows + r * stride + offsetof(Q8Block, values)));
  for (size_t r = 0; r < 8; r += 2) {
    y[r] = _mm256_unpacklo_epi32(x[r], x[r + 1]);
    y[r + 1] = _mm256_unpackhi_epi32(x[r], x[r + 1]);
  }
  for (size_t r = 0; r < 8; r += 4)
    for (size_t i = 0; i < 2; ++i) {
      x[r + 2 * i] = _mm256_unpacklo_epi64(y[r + i], y[r + i + 2]);
      x[r + 2 * i + 1] = _mm256_unpackhi_epi64(y[r + i], y[r + i + 2]);
    }
  for (size_t i = 0; i < 4; ++i) {
    y[i] = _mm256_permute2x128_si256(x[i], x[i + 4], 0x20);
    y[i + 4] = _mm256_permute2x128_si256(x[i], x[i + 4], 0x31);
  }
  for (const __m256i four : y) {
    // Bytes become words: those at even places from the upper half, where their sign is.
    _mm256_store_si256(reinterpret_cast<__m256i*>(pairs), _mm256_srai_epi16(_mm256_slli_epi16(four, 8), 8));
    _mm256_store_si256(reinterpret_cast<__m256i*>(pairs + Tile::kPanel), _mm256_srai_epi16(four, 8));
    pairs += 2 * Tile::kPanel;
  }
}

AVX2 inline void read_scales(const char* rows, size_t stride, float* scales) {
  uint16_t halves[Tile::kPanel];
  for (size_t r = 0; r < Tile::kPanel; ++r) std::memcpy(&halves[r], rows + r * stride, sizeof halves[r]);
  for (int64_t i = 0; i < Tile::kPanel; i += kLanes)
    _mm256_store_ps(scales + i,
                    _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + i))));
}

}  // namespace

AVX2 void score_q8_by_words(Q8_SCORE_PARAMETERS) {
  const int64_t blocks = d_head / kBlock;
  const auto row_bytes = static_cast<size_t>(blocks) * sizeof(Q8Block);
  const Queries queries(q, columns, d_head, scale);
  Floats totals(queries.columns() * Tile::kPanel), scales(Tile::kPanel), ones(Tile::kPanel);
  Aligned<int32_t> pairs(kPairs * Tile::kPanel);
  std::fill_n(ones.data(), Tile::kPanel, 1.0f);
  std::vector<char> last;
  for (int64_t done = 0; done < count; done += Tile::kPanel, rows += Tile::kPanel * stride) {
    const int64_t left = std::min(Tile::kPanel, count - done);
    if (left < Tile::kPanel) {  // nothing is read behind them
      last.resize(Tile::kPanel * row_bytes);
      for (int64_t r = 0; r < left; ++r)
        std::memcpy(&last[static_cast<size_t>(r) * row_bytes], rows + static_cast<size_t>(r) * stride,
                    row_bytes);
      rows = last.data();
      stride = row_bytes;
    }
    for (size_t r = 0; r < Tile::kPanel; ++r) __builtin_prefetch(rows + (kAhead + r) * stride);
    for (int64_t b = 0; b < blocks; ++b) {
      const char* block = rows + static_cast<size_t>(b) * sizeof(Q8Block);
      for (int64_t i = 0; i < Tile::kPanel; i += kLanes)
        turn(block + static_cast<size_t>(i) * stride, stride, pairs.data() + i);
      read_scales(block, stride, scales.data());
      for (int64_t c = 0; c < queries.columns(); c += Tile::kRows) {
        float* to = totals.data() + c * Tile::kPanel;
        if (b == 0)
          multiply_words<false, false>(queries.at(b, c), kPairs, pairs.data(), scales.data(), to, nullptr);
        else
          multiply_words<false, true>(queries.at(b, c), kPairs, pairs.data(), scales.data(), to, ones.data());
      }
    }
    for (int64_t c = 0; c < columns; ++c) {
      const float* from = totals.data() + c * Tile::kPanel;
      float* to = out + c * out_stride + done;
      if (left == Tile::kPanel)
        std::memcpy(to, from, Tile::kPanel * sizeof(float));
      else
        std::copy_n(from, left, to);
    }
  }
}

#endif

}  // namespace windowkv
