// Plain loops over tiles of rows that fit the innermost cache, compiled for each generation of processors
// that is worth it; which one runs is decided once. ggml's own kernels are out of reach for functions of
// one's own: its CPU backend is loaded at run time.
#include "backend/row_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/lanes.h"
#include "backend/processor.h"
#include "backend/q8_scores.h"
#include "backend/targets.h"

namespace windowkv {

namespace {

constexpr int64_t kTile = 32;       // rows
constexpr int64_t kMostWide = 512;  // elements of a row

INLINE const char* row_at(const HostRows& rows, int64_t head, const RowRange& range, int64_t index) {
  const int64_t at = range.first + index;
  return rows.at(range.numbers != nullptr ? range.numbers[at] : at, head);
}

/// Asks for the rows from `done` on, kTile at most, before they are needed: they come from far, and where
/// they were chosen no hardware foresees them.
INLINE void fetch_tile(const HostRows& rows, int64_t head, const RowRange& range, int64_t done,
                       size_t bytes) {
  const int64_t end = std::min<int64_t>(range.count, done + kTile);
  for (; done < end; ++done)
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(row_at(rows, head, range, done) + at);
}

/// Rows [done, done + kTile) of the range, as far as it goes; zeros behind them. Returns how many there are.
INLINE int64_t widen_tile(const HostRows& rows, int64_t head, const RowRange& range, int64_t done,
                          float* tile, int64_t d) {
  const int64_t count = std::min<int64_t>(kTile, range.count - done);
  for (int64_t i = 0; i < count; ++i)
    widen_row(rows.type, row_at(rows, head, range, done + i), tile + i * d, d);
  if (count < kTile)
    std::memset(tile + count * d, 0, static_cast<size_t>((kTile - count) * d) * sizeof(float));
  return count;
}

/// Each of x[kTile] becomes cap · tanh(x / cap).
INLINE void cap_tile(float* x, float cap) {
  for (int64_t i = 0; i < kTile; i += kLanes) {
    Lanes y;
    std::memcpy(&y, x + i, sizeof y);
    y = cap_lanes(y, cap);
    std::memcpy(x + i, &y, sizeof y);
  }
}

/// out[i] = q · row i, of eight rows.
template <typename Vector>
INLINE void multiply_rows(const float* q, const float* rows, int64_t d, float* out) {
  constexpr int64_t kWidth = sizeof(Vector) / sizeof(float);
  Vector sums[kLanes] = {};
  for (int64_t i = 0; i < d; i += kWidth) {
    Vector x;
    std::memcpy(&x, q + i, sizeof x);
    for (int64_t r = 0; r < kLanes; ++r) {
      Vector y;
      std::memcpy(&y, rows + r * d + i, sizeof y);
      sums[r] += x * y;
    }
  }
  Lanes lanes[kLanes];
  for (int64_t r = 0; r < kLanes; ++r) lanes[r] = folded(sums[r]);
  Lanes each;
  join_lanes<false>(lanes, &each);
  std::memcpy(out, &each, sizeof each);
}

/// scores[i] = the logit of q and row i of the tile.
template <bool wide>
INLINE void score_tile(const float* q, const float* tile, int64_t d, LogitScale logits, float* scores) {
  for (int64_t row = 0; row < kTile; row += kLanes)
    if (wide && d % (2 * kLanes) == 0)
      multiply_rows<WideLanes>(q, tile + row * d, d, scores + row);
    else
      multiply_rows<Lanes>(q, tile + row * d, d, scores + row);
  for (int64_t i = 0; i < kTile; ++i) scores[i] *= logits.scale;
  if (logits.softcap > 0) cap_tile(scores, logits.softcap);
}

/// Each of x[kTile] becomes e^(x − shift), for x ≤ shift (exp_lanes), and joins the sums.
template <typename Vector>
INLINE void exp_tile(float* x, float shift, Vector& sums) {
  for (int64_t i = 0; i < kTile; i += static_cast<int64_t>(sizeof(Vector) / sizeof(float))) {
    Vector y;
    std::memcpy(&y, x + i, sizeof y);
    y = exp_lanes(y - shift);
    sums += y;
    std::memcpy(x + i, &y, sizeof y);
  }
}

INLINE float sum_of(Lanes x) {
  float sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += x[lane];
  return sum;
}

/// exp_tile of x[n]; returns the sum.
template <bool wide>
INLINE float exp_row(float* x, int64_t n, float shift) {
  Widest<wide> sums = {};
  int64_t i = 0;
  for (; i + kTile <= n; i += kTile) exp_tile(x + i, shift, sums);
  if (i < n) {
    float rest[kTile];
    std::fill_n(rest, kTile, -INFINITY);
    std::copy_n(x + i, n - i, rest);
    exp_tile(rest, shift, sums);
    std::copy_n(rest, n - i, x + i);
  }
  return sum_of(folded(sums));
}

template <bool wide>
INLINE float highest_of(const float* x, int64_t n) {
  using Vector = Widest<wide>;
  constexpr auto kWidth = static_cast<int64_t>(sizeof(Vector) / sizeof(float));
  Vector tops[2] = {Vector{} - INFINITY, Vector{} - INFINITY};  // side by side in registers
  int64_t i = 0;
  for (; i + 2 * kWidth <= n; i += 2 * kWidth)
    for (int64_t half = 0; half < 2; ++half) {
      Vector y;
      std::memcpy(&y, x + i + half * kWidth, sizeof y);
      tops[half] = y > tops[half] ? y : tops[half];
    }
  float highest = -INFINITY;
  for (; i < n; ++i) highest = std::max(highest, x[i]);
  tops[0] = tops[1] > tops[0] ? tops[1] : tops[0];
  for (int64_t lane = 0; lane < kWidth; ++lane) highest = std::max(highest, tops[0][lane]);
  return highest;
}

/// sum[at .. at + width) = sum · keep + Σ weights[i] · row i.
template <int64_t width>
INLINE void add_weighted(const float* weights, const float* tile, int64_t d, int64_t at, float keep,
                         float* sum) {
  float held[width];
  for (int64_t i = 0; i < width; ++i) held[i] = sum[at + i] * keep;
  for (int64_t row = 0; row < kTile; ++row)
    for (int64_t i = 0; i < width; ++i) held[i] += weights[row] * tile[row * d + at + i];
  std::memcpy(sum + at, held, sizeof held);
}

template <bool wide>
INLINE void attend_body(const HostRows& k, const HostRows& v, int64_t head, const RowRange& range,
                        const float* q, int heads, int64_t d, LogitScale logits,
                        const AttentionState* states) {
  float keys[kTile * kMostWide];
  float values[kTile * kMostWide];
  const size_t k_bytes = ggml_row_size(k.type, d);
  const size_t v_bytes = ggml_row_size(v.type, d);
  fetch_tile(k, head, range, 0, k_bytes);
  for (int64_t done = 0; done < range.count; done += kTile) {
    fetch_tile(v, head, range, done, v_bytes);
    const int64_t count = widen_tile(k, head, range, done, keys, d);
    fetch_tile(k, head, range, done + kTile, k_bytes);
    widen_tile(v, head, range, done, values, d);
    for (int64_t h = 0; h < heads; ++h) {
      const auto& state = states[h];
      float weights[kTile];
      score_tile<wide>(q + h * d, keys, d, logits, weights);
      for (int64_t i = count; i < kTile; ++i) weights[i] = -INFINITY;
      const float highest = std::max(*state.highest, highest_of<wide>(weights, kTile));
      const float keep = highest > *state.highest ? std::exp(*state.highest - highest) : 1.0f;
      Widest<wide> sums = {};
      exp_tile(weights, highest, sums);
      *state.weight = *state.weight * keep + sum_of(folded(sums));
      *state.highest = highest;
      int64_t at = 0;
      for (; at + 64 <= d; at += 64) add_weighted<64>(weights, values, d, at, keep, state.sum);
      for (; at < d; at += kLanes) add_weighted<kLanes>(weights, values, d, at, keep, state.sum);
    }
  }
}

template <bool wide>
INLINE void score_body(const HostRows& k, int64_t head, const RowRange& range, const float* q, int columns,
                       int64_t d, LogitScale logits, float* out, int64_t stride) {
  float keys[kTile * kMostWide];
  const size_t bytes = ggml_row_size(k.type, d);
  fetch_tile(k, head, range, 0, bytes);
  for (int64_t done = 0; done < range.count; done += kTile) {
    const int64_t count = widen_tile(k, head, range, done, keys, d);
    fetch_tile(k, head, range, done + kTile, bytes);
    for (int64_t c = 0; c < columns; ++c) {
      float scores[kTile];
      score_tile<wide>(q + c * d, keys, d, logits, scores);
      std::memcpy(out + c * stride + done, scores, static_cast<size_t>(count) * sizeof(float));
    }
  }
}

template <bool wide>
INLINE float exp_scores_body(float* scores, int64_t n) {
  return 1.0f / exp_row<wide>(scores, n, highest_of<wide>(scores, n));
}

#define ATTEND_PARAMETERS                                                                                    \
  const HostRows &k, const HostRows &v, int64_t head, RowRange range, const float *q, int heads, int d_head, \
      LogitScale logits, const AttentionState *states
#define SCORE_PARAMETERS                                                                    \
  const HostRows &k, int64_t head, RowRange range, const float *q, int columns, int d_head, \
      LogitScale logits, float *out, int64_t stride
#define VARIANT(name, wide, ...)                                               \
  __VA_ARGS__ void attend_##name(ATTEND_PARAMETERS) {                          \
    attend_body<wide>(k, v, head, range, q, heads, d_head, logits, states);    \
  }                                                                            \
  __VA_ARGS__ void score_##name(SCORE_PARAMETERS) {                            \
    score_body<wide>(k, head, range, q, columns, d_head, logits, out, stride); \
  }                                                                            \
  __VA_ARGS__ float exp_scores_##name(float* scores, int64_t n) {              \
    return exp_scores_body<wide>(scores, n);                                   \
  }

VARIANT(any, false)
#ifdef __x86_64__
VARIANT(avx2, false, AVX2)
VARIANT(avx512, true, AVX512)
#endif

struct Variant {
  void (*attend)(ATTEND_PARAMETERS);
  void (*score)(SCORE_PARAMETERS);
  float (*exp_scores)(float* scores, int64_t n);
  void (*score_q8)(Q8_SCORE_PARAMETERS);  // null: by `score`
};

Variant best_variant() {
#ifdef __x86_64__
  switch (vectors_of_processor()) {
    case Vectors::kVnni:
      return {attend_avx512, score_avx512, exp_scores_avx512, score_q8_by_bytes};
    case Vectors::kAvx512:
      return {attend_avx512, score_avx512, exp_scores_avx512, score_q8_by_words};
    case Vectors::kAvx2:
      return {attend_avx2, score_avx2, exp_scores_avx2, score_q8_by_words};
    case Vectors::kBaseline:
      break;
  }
#endif
  return {attend_any, score_any, exp_scores_any, nullptr};
}

const Variant& variant() {
  static const Variant best = best_variant();
  return best;
}

}  // namespace

bool row_kernels_take(ggml_type type, int64_t d_head) {
  return (type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 || type == GGML_TYPE_Q8_0 ||
          type == GGML_TYPE_Q4_0) &&
         d_head % kLanes == 0 && d_head <= kMostWide;
}

void attend_rows(ATTEND_PARAMETERS) {
  variant().attend(k, v, head, range, q, heads, d_head, logits, states);
}

void score_rows(SCORE_PARAMETERS) {
  const auto& best = variant();
  if (best.score_q8 != nullptr && k.type == GGML_TYPE_Q8_0 && range.numbers == nullptr && logits.softcap == 0)
    best.score_q8(k.at(range.first, head), k.row_stride, range.count, q, columns, d_head, logits.scale, out,
                  stride);
  else
    best.score(k, head, range, q, columns, d_head, logits, out, stride);
}

float exp_scores(float* scores, int64_t n) {
  return variant().exp_scores(scores, n);
}

}  // namespace windowkv
