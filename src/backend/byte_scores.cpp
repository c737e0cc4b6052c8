// Sixteen rows at a time are turned on their side, so that a lane of a register belongs to a row: products of
// bytes, four values at once, sum up in the lanes, and no sum goes across them. A query's bytes are the same
// for all lanes.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "backend/ggml_blocks.h"
#include "backend/intrinsics.h"
#include "backend/q8_scores.h"

namespace windowkv {

#ifdef __x86_64__

namespace {

constexpr int64_t kRows = 16;           // at once: one in each lane
constexpr int64_t kAhead = 64;          // rows that are fetched before they are needed
constexpr int64_t kWords = kBlock / 4;  // of a block, four values each

/// A block of a query in 8 bits. The products take unsigned rows, whose values lie 128 higher.
struct ByteQuery {
  int32_t words[kWords];
  float scale;
  int32_t start;  // of the sum, less what the 128s add
};

using Words = int32_t __attribute__((vector_size(kRows * sizeof(int32_t))));

struct alignas(64) Lanes {
  float of[kRows];
};

VNNI ByteQuery rounded(const float* q, float scale) {
  const __m512 low = _mm512_loadu_ps(q), high = _mm512_loadu_ps(q + kRows);
  const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
  const __m512 inverse = _mm512_set1_ps(most > 0 ? 127 / most : 0);
  const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
  const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
  ByteQuery out{.words = {},
                .scale = most / 127 * scale,
                .start = -128 * _mm512_reduce_add_epi32(_mm512_add_epi32(a, b))};
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out.words), _mm512_cvtepi32_epi8(a));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out.words + kWords / 2), _mm512_cvtepi32_epi8(b));
  return out;
}

/// The same four of each quarter of x (0 to 3) and y (16 to 19).
template <int a, int b, int c, int d>
VNNI inline Words picked(Words x, Words y) {
  return __builtin_shufflevector(x, y, a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8,
                                 a + 12, b + 12, c + 12, d + 12);
}

/// A block of sixteen rows, a row in each lane: four values a word, 128 higher.
VNNI inline void turn(const char* rows, size_t stride, Words* words) {
  const __m512i high = _mm512_set1_epi8(static_cast<char>(0x80));
  for (size_t at = offsetof(Q8Block, values); at < sizeof(Q8Block); at += 16, words += 4) {
    Words z[4];  // 16 bytes of the rows j, j + 4, j + 8, j + 12
    for (size_t j = 0; j < 4; ++j) {
      auto bytes = [&](size_t row) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + row * stride + at));
      };
      __m512i four = _mm512_castsi128_si512(bytes(j));
      four = _mm512_inserti32x4(four, bytes(j + 4), 1);
      four = _mm512_inserti32x4(four, bytes(j + 8), 2);
      four = _mm512_inserti32x4(four, bytes(j + 12), 3);
      z[j] = reinterpret_cast<Words>(_mm512_xor_si512(four, high));
    }
    const Words low01 = picked<0, 16, 1, 17>(z[0], z[1]), high01 = picked<2, 18, 3, 19>(z[0], z[1]);
    const Words low23 = picked<0, 16, 1, 17>(z[2], z[3]), high23 = picked<2, 18, 3, 19>(z[2], z[3]);
    words[0] = picked<0, 1, 16, 17>(low01, low23);
    words[1] = picked<2, 3, 18, 19>(low01, low23);
    words[2] = picked<0, 1, 16, 17>(high01, high23);
    words[3] = picked<2, 3, 18, 19>(high01, high23);
  }
}

VNNI inline __m512 scales_of(const char* rows, size_t stride) {
  uint16_t scales[kRows];
  for (size_t r = 0; r < kRows; ++r) std::memcpy(&scales[r], rows + r * stride, sizeof scales[r]);
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
}

}  // namespace

VNNI void score_q8_by_bytes(Q8_SCORE_PARAMETERS) {
  const int64_t blocks = d_head / kBlock;
  const auto row_bytes = static_cast<size_t>(blocks) * sizeof(Q8Block);
  std::vector<ByteQuery> queries;  // of block 0, of block 1, ...
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t c = 0; c < columns; ++c) queries.push_back(rounded(q + c * d_head + b * kBlock, scale));
  std::vector<Lanes> totals(static_cast<size_t>(columns));
  std::vector<char> last;
  for (int64_t done = 0; done < count; done += kRows, rows += kRows * stride) {
    const int64_t left = std::min(kRows, count - done);
    if (left < kRows) {  // nothing is read behind them
      last.resize(kRows * row_bytes);
      for (int64_t r = 0; r < left; ++r)
        std::memcpy(&last[static_cast<size_t>(r) * row_bytes], rows + static_cast<size_t>(r) * stride,
                    row_bytes);
      rows = last.data();
      stride = row_bytes;
    }
    for (size_t r = 0; r < kRows; ++r) __builtin_prefetch(rows + (kAhead + r) * stride);
    std::ranges::fill(totals, Lanes{});
    const auto* query = queries.data();
    for (int64_t b = 0; b < blocks; ++b) {
      const char* block = rows + static_cast<size_t>(b) * sizeof(Q8Block);
      Words words[kWords];
      turn(block, stride, words);
      const __m512 scales = scales_of(block, stride);
      for (auto& total : totals) {
        __m512i sum = _mm512_set1_epi32(query->start);
        for (int64_t w = 0; w < kWords; ++w)
          sum = _mm512_dpbusd_epi32(sum, reinterpret_cast<__m512i>(words[w]),
                                    _mm512_set1_epi32(query->words[w]));
        const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(query->scale));
        _mm512_store_ps(total.of, _mm512_fmadd_ps(product, scales, _mm512_load_ps(total.of)));
        ++query;
      }
    }
    const auto mask = static_cast<__mmask16>((1u << left) - 1);
    for (int64_t c = 0; c < columns; ++c)
      _mm512_mask_storeu_ps(out + c * out_stride + done, mask,
                            _mm512_load_ps(totals[static_cast<size_t>(c)].of));
  }
}

#endif

}  // namespace windowkv
