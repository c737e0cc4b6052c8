#include "backend/word_products.h"

#include <algorithm>

#include "backend/vnni.h"

namespace windowkv {

#ifdef __x86_64__

namespace {

/// What the norm of what is scaled comes to, unless the largest element would be more than 16 bits hold. With
/// what rounding adds, the product of two norms stays below 2³¹.
constexpr float kNorm = 46000;
constexpr float kMostWhole = 32767;
/// Below it nothing is scaled: zeros stay zeros.
constexpr float kLeast = 1e-30f;

VNNI inline __m256i whole_of(const float* x, __m256 factor) {
  return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), factor));
}

VNNI inline __m512i whole_of(const float* x, __m512 factor) {
  return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(x), factor));
}

/// Adds squares of eight numbers, and raises their largest magnitudes.
VNNI inline void add_magnitudes(const float* x, __m256& squares, __m256& mosts) {
  const __m256 some = _mm256_loadu_ps(x);
  squares = _mm256_fmadd_ps(some, some, squares);
  mosts = _mm256_max_ps(mosts, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), some));
}

/// What a whole number counts; NaN where an element is none, so that what comes of it is none either.
VNNI inline __m256 steps_of(__m256 squares, __m256 mosts) {
  const __m256 norms = _mm256_mul_ps(_mm256_sqrt_ps(squares), _mm256_set1_ps(1 / kNorm));
  mosts = _mm256_mul_ps(mosts, _mm256_set1_ps(1 / kMostWhole));
  // The maximum of what is no number is its second operand.
  return _mm256_max_ps(_mm256_set1_ps(kLeast), _mm256_max_ps(mosts, norms));
}

/// x [d] as pairs of whole numbers; returns what one of them counts.
VNNI float round_row(const float* x, int64_t d, int32_t* pairs) {
  __m256 squares = _mm256_setzero_ps(), mosts = _mm256_setzero_ps();
  for (int64_t j = 0; j < d; j += kLanes) add_magnitudes(x + j, squares, mosts);
  float sum = 0, most = 0, of[kLanes];
  _mm256_storeu_ps(of, squares);
  for (const float square : of) sum += square;
  _mm256_storeu_ps(of, mosts);
  for (const float magnitude : of) most = std::max(most, magnitude);
  const __m256 step = steps_of(_mm256_set1_ps(sum), _mm256_set1_ps(most));
  const __m256 factor = _mm256_div_ps(_mm256_set1_ps(1), step);
  for (int64_t j = 0; j < d; j += kLanes)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(pairs + j / 2),
                     _mm256_cvtsepi32_epi16(whole_of(x + j, factor)));
  return _mm256_cvtss_f32(step);
}

/// widen_row, faster where there is an instruction for it.
VNNI inline void widen(const HostRows& rows, int64_t row, int64_t head, float* out, int64_t d) {
  const char* from = rows.at(row, head);
  if (rows.type != GGML_TYPE_F16) return widen_row(rows.type, from, out, d);
  for (int64_t i = 0; i < d; i += kLanes)
    _mm256_store_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(
                                 reinterpret_cast<const __m128i*>(from + static_cast<size_t>(i) * 2))));
}

/// A row's sums with a panel.
struct Sums {
  __m512i left = {}, right = {};
};

/// Adds the products of a row's pair. GCC 12 copies all sums to other registers and back for its own function
/// of this instruction, which takes a quarter of the time.
VNNI inline void add_products(Sums& sums, __m512i left, __m512i right, int32_t pair) {
  const __m512i x = _mm512_set1_epi32(pair);
  asm("vpdpwssd %2, %1, %0" : "+v"(sums.left) : "v"(left), "v"(x));
  asm("vpdpwssd %2, %1, %0" : "+v"(sums.right) : "v"(right), "v"(x));
}

/// c [kRows, panel] = (c · keep, where there is one) + a · b, times a scale of each row and of each of b's
/// columns: a's pair of row r and depth i at r · row_step + i · depth_step, b [depth, panel] pairs.
template <bool keeps>
VNNI inline void multiply(const int32_t* a, const float* a_scales, int64_t row_step, int64_t depth_step,
                          int64_t depth, const int32_t* b, const float* b_scales, float* c,
                          const float* keep) {
  using W = WordProducts;
  Sums sums[W::kRows];
  for (int64_t i = 0; i < depth; ++i, a += depth_step, b += W::kPanel) {
    const __m512i left = _mm512_load_si512(b);
    const __m512i right = _mm512_load_si512(b + W::kWidth);
    // By hand: in a loop they would stay in memory.
    add_products(sums[0], left, right, a[0]);
    add_products(sums[1], left, right, a[row_step]);
    add_products(sums[2], left, right, a[2 * row_step]);
    add_products(sums[3], left, right, a[3 * row_step]);
    add_products(sums[4], left, right, a[4 * row_step]);
    add_products(sums[5], left, right, a[5 * row_step]);
    add_products(sums[6], left, right, a[6 * row_step]);
    add_products(sums[7], left, right, a[7 * row_step]);
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < W::kRows; ++r)
    for (int64_t half = 0; half < 2; ++half) {
      float* at = c + r * W::kPanel + half * W::kWidth;
      const __m512 scale =
          _mm512_mul_ps(_mm512_load_ps(b_scales + half * W::kWidth), _mm512_set1_ps(a_scales[r]));
      __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(half == 0 ? sums[r].left : sums[r].right), scale);
      if (keeps) sum = _mm512_fmadd_ps(_mm512_load_ps(at), _mm512_load_ps(keep + half * W::kWidth), sum);
      _mm512_store_ps(at, sum);
    }
}

}  // namespace

void WordProducts::Queries::set(int64_t i, const float* q, float scale) {
  int32_t* to = panels_.data() + i / kPanel * d_ / 2 * kPanel + i % kPanel;
  if (q == nullptr) {
    for (int64_t j = 0; j < d_ / 2; ++j) to[j * kPanel] = 0;
    return;
  }
  scales_.data()[i] = round_row(q, d_, row_.data()) * scale;
  for (int64_t j = 0; j < d_ / 2; ++j) to[j * kPanel] = row_.data()[j];
}

VNNI void WordProducts::Keys::read(const HostRows& rows, int64_t head, int64_t first, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    widen(rows, first + i, head, wide_.data(), d_);
    scales_.data()[i] = round_row(wide_.data(), d_, pairs_.data() + i * d_ / 2);
  }
}

VNNI void WordProducts::Values::read(const HostRows& rows, int64_t head, int64_t first, int64_t count) {
  const float* x = wide_.data();
  for (int64_t i = 0; i < count; ++i) widen(rows, first + i, head, wide_.data() + i * d_, d_);
  for (int64_t j = 0; j < d_; j += kLanes) {
    __m256 squares = _mm256_setzero_ps(), mosts = _mm256_setzero_ps();
    for (int64_t i = 0; i < count; ++i) add_magnitudes(x + i * d_ + j, squares, mosts);
    const __m256 steps = steps_of(squares, mosts);
    const __m256 factor = _mm256_div_ps(_mm256_set1_ps(1), steps);
    _mm256_store_ps(scales_.data() + j, steps);
    for (int64_t i = 0; i < count; i += 2) {
      const float* at = x + i * d_ + j;
      const __m256i low = whole_of(at, factor);
      const __m256i high = i + 1 < count ? whole_of(at + d_, factor) : _mm256_setzero_si256();
      _mm256_store_si256(reinterpret_cast<__m256i*>(pairs_.data() + i / 2 * d_ + j),
                         _mm256_mask_blend_epi16(0xaaaa, low, _mm256_slli_epi32(high, 16)));
    }
  }
}

VNNI void WordProducts::score(const Queries& queries, int64_t panel, const Keys& keys, int64_t count,
                              float* scores) {
  const int64_t depth = keys.d() / 2;
  for (int64_t i = 0; i < count; i += kRows)
    multiply<false>(keys.pairs() + i * depth, keys.scales() + i, depth, 1, depth, queries.panel(panel),
                    queries.scales(panel), scores + i * kPanel, nullptr);
}

VNNI void WordProducts::round(PanelWeights& weights, const float* squares, int64_t count) {
  for (int64_t half = 0; half < kPanel; half += kWidth) {
    float* factors = weights.factor.data() + half;
    // The largest is 1, or none is seen.
    const __m512 step = _mm512_max_ps(
        _mm512_set1_ps(1 / kMostWhole),
        _mm512_mul_ps(_mm512_sqrt_ps(_mm512_load_ps(squares + half)), _mm512_set1_ps(1 / kNorm)));
    _mm512_store_ps(factors, _mm512_mul_ps(_mm512_load_ps(factors), step));
    const __m512 to_whole = _mm512_div_ps(_mm512_set1_ps(1), step);
    float* of = weights.of.data() + half;
    for (int64_t i = 0; i < count; i += 2) {
      const __m512i low = whole_of(of + i * kPanel, to_whole);
      const __m512i high = i + 1 < count ? whole_of(of + (i + 1) * kPanel, to_whole) : _mm512_setzero_si512();
      _mm512_store_si512(of + i / 2 * kPanel,
                         _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16)));
    }
  }
}

VNNI void WordProducts::add(const Values& values, const PanelWeights& weights, int64_t count, float* sums) {
  const auto* pairs = reinterpret_cast<const int32_t*>(weights.of.data());
  for (int64_t i = 0; i < values.d(); i += kRows)
    multiply<true>(values.pairs() + i, values.scales() + i, 1, values.d(), (count + 1) / 2, pairs,
                   weights.factor.data(), sums + i * kPanel, weights.keep.data());
}

#endif

}  // namespace windowkv
