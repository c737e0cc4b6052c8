#include "backend/word_products.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "backend/intrinsics.h"

namespace windowkv {

#ifdef __x86_64__

namespace {

/// What the norm of what is scaled comes to, unless the largest element would be more than 16 bits hold. With
/// what rounding adds, the product of two norms stays below 2³¹.
constexpr float kNorm = 46000;
constexpr float kMostWhole = 32767;
/// Below it nothing is scaled: zeros stay zeros.
constexpr float kLeast = 1e-30f;

AVX2 inline __m256i whole_of(const float* x, __m256 factor) {
  return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), factor));
}

/// Adds squares of eight numbers, and raises their largest magnitudes.
AVX2 inline void add_magnitudes(const float* x, __m256& squares, __m256& mosts) {
  const __m256 some = _mm256_loadu_ps(x);
  squares = _mm256_fmadd_ps(some, some, squares);
  mosts = _mm256_max_ps(mosts, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), some));
}

/// What a whole number counts; NaN where an element is none, so that what comes of it is none either.
AVX2 inline __m256 steps_of(__m256 squares, __m256 mosts) {
  const __m256 norms = _mm256_mul_ps(_mm256_sqrt_ps(squares), _mm256_set1_ps(1 / kNorm));
  mosts = _mm256_mul_ps(mosts, _mm256_set1_ps(1 / kMostWhole));
  // The maximum of what is no number is its second operand.
  return _mm256_max_ps(_mm256_set1_ps(kLeast), _mm256_max_ps(mosts, norms));
}

/// x [d] as pairs of whole numbers.
AVX2 inline void round_row(const float* x, int64_t d, __m256 factor, int32_t* pairs) {
  for (int64_t j = 0; j < d; j += kLanes) {
    const __m256i whole = whole_of(x + j, factor);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(pairs + j / 2),
                     _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1)));
  }
}

/// What a whole number of each of up to eight rows x [d] counts.
AVX2 inline void find_row_steps(const float* x, int64_t d, int64_t rows, float* steps) {
  Lanes squares[kLanes] = {}, mosts[kLanes] = {};
  for (int64_t i = 0; i < rows; ++i) {
    __m256 square = _mm256_setzero_ps(), most = _mm256_setzero_ps();
    for (int64_t j = 0; j < d; j += kLanes) add_magnitudes(x + i * d + j, square, most);
    squares[i] = square;
    mosts[i] = most;
  }
  Lanes sums, most_of_rows;
  join_lanes<false>(squares, &sums);
  join_lanes<true>(mosts, &most_of_rows);
  _mm256_store_ps(steps, steps_of(sums, most_of_rows));
}

/// A row alone; returns what a whole number counts.
AVX2 float round_query(const float* x, int64_t d, int32_t* pairs) {
  alignas(sizeof(Lanes)) float steps[kLanes];
  find_row_steps(x, d, 1, steps);
  round_row(x, d, _mm256_set1_ps(1 / steps[0]), pairs);
  return steps[0];
}

/// widen_row, faster where there is an instruction for it.
AVX2 inline void widen(const HostRows& rows, int64_t row, int64_t head, float* out, int64_t d) {
  const char* from = rows.at(row, head);
  if (rows.type != GGML_TYPE_F16) return widen_row(rows.type, from, out, d);
  for (int64_t i = 0; i < d; i += kLanes)
    _mm256_store_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(
                                 reinterpret_cast<const __m128i*>(from + static_cast<size_t>(i) * 2))));
}

template <bool wide>
INLINE void score_body(const int32_t* queries, const float* scales, const WordKeys& keys, int64_t count,
                       float* scores) {
  using P = WordProducts<wide>;
  const int64_t depth = keys.d() / 2;
  for (int64_t i = 0; i < count; i += WordTile<wide>::kRows)
    multiply_words<wide, false>({keys.pairs() + i * depth, keys.scales() + i, depth, 1}, depth, queries,
                                scales, scores + i * P::kPanel, nullptr);
}

template <bool wide>
INLINE void add_body(const WordValues& values, const PanelWeights& weights, int64_t count, float* sums) {
  using P = WordProducts<wide>;
  const auto* pairs = reinterpret_cast<const int32_t*>(weights.of.data());
  for (int64_t i = 0; i < values.d(); i += WordTile<wide>::kRows)
    multiply_words<wide, true>({values.pairs() + i, values.scales() + i, 1, values.d()}, (count + 1) / 2,
                               pairs, weights.factor.data(), sums + i * P::kPanel, weights.keep.data());
}

/// What a whole number of each query's weights counts, [kLanes] of them: the largest is 1, or none is seen.
AVX2 inline void find_steps(const float* squares, float* steps) {
  _mm256_store_ps(steps, steps_of(_mm256_load_ps(squares), _mm256_set1_ps(1)));
}

/// Numbers up to 2¹⁵, rounded: in the lowest bits.
template <typename Vector>
INLINE typename BitsOfLanes<Vector>::Type whole_bits(Vector x) {
  constexpr float kShift = 0x1.8p23f;
  typename BitsOfLanes<Vector>::Type bits;
  x += kShift;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

template <bool wide>
INLINE void round_body(PanelWeights& weights, const float* squares, int64_t count) {
  using P = WordProducts<wide>;
  using Vector = typename P::Vector;
  alignas(64) float steps[P::kPanel];
  for (int64_t i = 0; i < P::kPanel; i += kLanes) find_steps(squares + i, steps + i);
  for (int64_t half = 0; half < P::kPanel; half += P::kWidth) {
    float* factors = weights.factor.data() + half;
    const auto step = load<Vector>(steps + half);
    store(load<Vector>(factors) * step, factors);
    const Vector to_whole = 1.0f / step;
    float* of = weights.of.data() + half;
    for (int64_t i = 0; i < count; i += 2) {
      auto pairs = whole_bits(load<Vector>(of + i * P::kPanel) * to_whole) & 0xffff;
      if (i + 1 < count) pairs |= whole_bits(load<Vector>(of + (i + 1) * P::kPanel) * to_whole) << 16;
      std::memcpy(of + i / 2 * P::kPanel, &pairs, sizeof pairs);
    }
  }
}

#define SCORE_PARAMETERS \
  const int32_t *queries, const float *scales, const WordKeys &keys, int64_t count, float *scores
#define ADD_PARAMETERS const WordValues &values, const PanelWeights &weights, int64_t count, float *sums
#define ROUND_PARAMETERS PanelWeights &weights, const float *squares, int64_t count
#define VARIANT(wide, ...)                                                   \
  __VA_ARGS__ void score_words(std::bool_constant<wide>, SCORE_PARAMETERS) { \
    score_body<wide>(queries, scales, keys, count, scores);                  \
  }                                                                          \
  __VA_ARGS__ void add_words(std::bool_constant<wide>, ADD_PARAMETERS) {     \
    add_body<wide>(values, weights, count, sums);                            \
  }                                                                          \
  __VA_ARGS__ void round_words(std::bool_constant<wide>, ROUND_PARAMETERS) { \
    round_body<wide>(weights, squares, count);                               \
  }

VARIANT(false, AVX2)
VARIANT(true, VNNI)

}  // namespace

template <bool wide>
void WordProducts<wide>::Queries::set(int64_t i, const float* q, float scale) {
  int32_t* to = panels_.data() + i / kPanel * d_ / 2 * kPanel + i % kPanel;
  if (q == nullptr) {
    for (int64_t j = 0; j < d_ / 2; ++j) to[j * kPanel] = 0;
    return;
  }
  scales_.data()[i] = round_query(q, d_, row_.data()) * scale;
  for (int64_t j = 0; j < d_ / 2; ++j) to[j * kPanel] = row_.data()[j];
}

AVX2 void WordKeys::read(const HostRows& rows, int64_t head, int64_t first, int64_t count) {
  for (int64_t begin = 0; begin < count; begin += kLanes) {
    const int64_t some = std::min(kLanes, count - begin);
    for (int64_t i = 0; i < some; ++i) widen(rows, first + begin + i, head, wide_.data() + i * d_, d_);
    float* steps = scales_.data() + begin;
    find_row_steps(wide_.data(), d_, some, steps);
    for (int64_t i = 0; i < some; ++i)
      round_row(wide_.data() + i * d_, d_, _mm256_set1_ps(1 / steps[i]),
                pairs_.data() + (begin + i) * d_ / 2);
  }
}

AVX2 void WordValues::read(const HostRows& rows, int64_t head, int64_t first, int64_t count) {
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
                         _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xaa));
    }
  }
}

template <bool wide>
void WordProducts<wide>::score(const Queries& queries, int64_t panel, const Keys& keys, int64_t count,
                               float* scores) {
  score_words(std::bool_constant<wide>(), queries.panel(panel), queries.scales(panel), keys, count, scores);
}

template <bool wide>
void WordProducts<wide>::round(PanelWeights& weights, const float* squares, int64_t count) {
  round_words(std::bool_constant<wide>(), weights, squares, count);
}

template <bool wide>
void WordProducts<wide>::add(const Values& values, const PanelWeights& weights, int64_t count, float* sums) {
  add_words(std::bool_constant<wide>(), values, weights, count, sums);
}

template struct WordProducts<false>;
template struct WordProducts<true>;

#endif

}  // namespace windowkv
