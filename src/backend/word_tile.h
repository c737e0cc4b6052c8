#pragma once

// The innermost loops of products of 16-bit whole numbers, for functions that are compiled for AVX2 or
// AVX-512 VNNI.

#include <cstdint>
#include <cstring>

#include "backend/panels.h"

#ifdef __x86_64__
#include "backend/intrinsics.h"
#endif

namespace windowkv {

/// What is summed up in registers at once: so many rows with a panel.
template <bool wide>
struct WordTile {
  static constexpr int64_t kWidth = sizeof(Widest<wide>) / sizeof(float);
  static constexpr int64_t kPanel = 2 * kWidth;
  static constexpr int64_t kRows = wide ? 8 : 4;
};

#ifdef __x86_64__

/// A row's sums with a panel.
struct WideSums {
  __m512i left = {}, right = {};
};
struct NarrowSums {
  __m256i left = {}, right = {};
};

// Adds the products of a row's pair. GCC 12 copies all sums to other registers and back for its own functions
// of these instructions, and loads what is multiplied again for each, which takes a quarter of the time.

VNNI inline void add_products(WideSums& sums, __m512i left, __m512i right, int32_t pair) {
  const __m512i x = _mm512_set1_epi32(pair);
  asm("vpdpwssd %2, %1, %0" : "+v"(sums.left) : "v"(left), "v"(x));
  asm("vpdpwssd %2, %1, %0" : "+v"(sums.right) : "v"(right), "v"(x));
}

AVX2 inline void add_products(NarrowSums& sums, __m256i left, __m256i right, int32_t pair) {
  const __m256i x = _mm256_set1_epi32(pair);
  __m256i of_left, of_right;
  asm("vpmaddwd %2, %1, %0" : "=x"(of_left) : "x"(left), "x"(x));
  asm("vpmaddwd %2, %1, %0" : "=x"(of_right) : "x"(right), "x"(x));
  asm("vpaddd %1, %0, %0" : "+x"(sums.left) : "x"(of_left));
  asm("vpaddd %1, %0, %0" : "+x"(sums.right) : "x"(of_right));
}

/// A factor of products: of row r and depth i the pair at r · row_step + i · depth_step, and a scale of each
/// row.
struct WordPairs {
  const int32_t* at;
  const float* scales;
  int64_t row_step, depth_step;
};

/// sums [kRows, panel] = a · b: b [depth, panel] pairs. As an array they would stay in memory.
VNNI inline void sum_wide(const WordPairs& a, int64_t depth, const int32_t* b, int32_t* to) {
  using P = WordTile<true>;
  WideSums s0, s1, s2, s3, s4, s5, s6, s7;
  const int32_t* x = a.at;
  const int64_t step = a.row_step;
  for (int64_t i = 0; i < depth; ++i, x += a.depth_step, b += P::kPanel) {
    const __m512i left = _mm512_load_si512(b);
    const __m512i right = _mm512_load_si512(b + P::kWidth);
    add_products(s0, left, right, x[0]);
    add_products(s1, left, right, x[step]);
    add_products(s2, left, right, x[2 * step]);
    add_products(s3, left, right, x[3 * step]);
    add_products(s4, left, right, x[4 * step]);
    add_products(s5, left, right, x[5 * step]);
    add_products(s6, left, right, x[6 * step]);
    add_products(s7, left, right, x[7 * step]);
  }
  for (const auto& sums : {s0, s1, s2, s3, s4, s5, s6, s7}) {
    _mm512_store_si512(to, sums.left);
    _mm512_store_si512(to + P::kWidth, sums.right);
    to += P::kPanel;
  }
}

AVX2 inline void sum_narrow(const WordPairs& a, int64_t depth, const int32_t* b, int32_t* to) {
  using P = WordTile<false>;
  NarrowSums s0, s1, s2, s3;
  const int32_t* x = a.at;
  const int64_t step = a.row_step;
#pragma GCC unroll 2
  for (int64_t i = 0; i < depth; ++i, x += a.depth_step, b += P::kPanel) {
    const __m256i left = _mm256_load_si256(reinterpret_cast<const __m256i*>(b));
    const __m256i right = _mm256_load_si256(reinterpret_cast<const __m256i*>(b + P::kWidth));
    add_products(s0, left, right, x[0]);
    add_products(s1, left, right, x[step]);
    add_products(s2, left, right, x[2 * step]);
    add_products(s3, left, right, x[3 * step]);
  }
  for (const auto& sums : {s0, s1, s2, s3}) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(to), sums.left);
    _mm256_store_si256(reinterpret_cast<__m256i*>(to + P::kWidth), sums.right);
    to += P::kPanel;
  }
}

/// c [kRows, panel] = (c · keep, where there is one) + a · b, times a scale of each row and of each of b's
/// columns.
template <bool wide, bool keeps>
INLINE void multiply_words(const WordPairs& a, int64_t depth, const int32_t* b, const float* b_scales,
                           float* c, const float* keep) {
  using P = WordTile<wide>;
  using Vector = Widest<wide>;
  alignas(64) int32_t sums[P::kRows * P::kPanel];
  if constexpr (wide)
    sum_wide(a, depth, b, sums);
  else
    sum_narrow(a, depth, b, sums);
#pragma GCC unroll 8
  for (int64_t r = 0; r < P::kRows; ++r)
    for (int64_t half = 0; half < P::kPanel; half += P::kWidth) {
      float* at = c + r * P::kPanel + half;
      typename BitsOfLanes<Vector>::Whole whole;
      std::memcpy(&whole, sums + r * P::kPanel + half, sizeof whole);
      const auto scale = load<Vector>(b_scales + half) * a.scales[r];
      Vector sum = __builtin_convertvector(whole, Vector) * scale;
      if (keeps) sum += load<Vector>(at) * load<Vector>(keep + half);
      store(sum, at);
    }
}

#endif

}  // namespace windowkv
