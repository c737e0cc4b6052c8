// Queries lie side by side, one in each lane of a register: their products with a row's elements are sums of
// vectors, and so are the softmax and its maxima, without a sum across lanes anywhere. A block of rows is
// widened once for all queries of a tile.
#include "backend/causal_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/lanes.h"
#include "backend/processor.h"

namespace windowkv {

namespace {

constexpr int64_t kBlockRows = 64;
/// A tile's queries and what they have summed up, which must stay in a core's cache beside a block.
constexpr int64_t kTileBytes = int64_t{128} << 10;
/// Below every score, and finite, so that differences from it are numbers.
constexpr float kLowest = -1e30f;

constexpr int64_t rounded_up(int64_t x, int64_t step) {
  return (x + step - 1) / step * step;
}

/// Memory that vectors do not straddle lines of.
class Floats {
 public:
  explicit Floats(int64_t count) : lines_(static_cast<size_t>(rounded_up(count, kOfLine) / kOfLine)) {}
  float* data() { return lines_.empty() ? nullptr : lines_.front().of; }

 private:
  static constexpr int64_t kOfLine = 16;
  struct alignas(64) Line {
    float of[kOfLine];
  };
  std::vector<Line> lines_;
};

/// What fits the registers: sums of so many rows with the queries of two vectors, a panel.
template <bool wide>
struct Shape {
  using Vector = Widest<wide>;
  static constexpr int64_t kWidth = sizeof(Vector) / sizeof(float);
  static constexpr int64_t kPanel = 2 * kWidth;
  static constexpr int64_t kRows = wide ? 8 : 4;
};

template <typename Vector>
INLINE Vector load(const float* x) {
  Vector y;
  std::memcpy(&y, x, sizeof y);
  return y;
}

template <typename Vector>
INLINE void store(Vector x, float* to) {
  std::memcpy(to, &x, sizeof x);
}

/// c [kRows, panel] = (c · keep, where there is one) + a · b: a's element of row r and depth i at
/// r · row_step + i · depth_step, b [depth, panel].
template <bool wide, bool keeps>
INLINE void multiply(const float* a, int64_t row_step, int64_t depth_step, int64_t depth, const float* b,
                     float* c, const float* keep) {
  using S = Shape<wide>;
  using Vector = typename S::Vector;
  Vector sums[S::kRows][2] = {};
  for (int64_t i = 0; i < depth; ++i) {
    const auto left = load<Vector>(b + i * S::kPanel);
    const auto right = load<Vector>(b + i * S::kPanel + S::kWidth);
#pragma GCC unroll 8
    for (int64_t r = 0; r < S::kRows; ++r) {
      const float x = a[r * row_step + i * depth_step];
      sums[r][0] += left * x;
      sums[r][1] += right * x;
    }
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < S::kRows; ++r)
    for (int64_t half = 0; half < 2; ++half) {
      float* at = c + r * S::kPanel + half * S::kWidth;
      if (keeps) sums[r][half] += load<Vector>(at) * load<Vector>(keep + half * S::kWidth);
      store(sums[r][half], at);
    }
}

/// Rows of a KV head, a block at a time, in float32.
struct Block {
  Block(int64_t elements, int64_t row_stride)
      : d(elements), stride(row_stride), wide(kBlockRows * row_stride) {}

  INLINE void read(const HostRows& rows, int64_t head, int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      widen_row(rows.type, rows.at(first + i, head), wide.data() + i * stride, d);
  }

  int64_t d;
  int64_t stride;  // elements from a row to the next one, zeros behind the d first
  Floats wide;
};

/// Queries of some tokens and heads, scaled, in panels [d, panel], and which rows each sees.
template <bool wide>
class Tile {
 public:
  using S = Shape<wide>;
  using Vector = typename S::Vector;

  Tile(const CausalQueries& queries, int64_t most)
      : of_(queries),
        d_(queries.d_head),
        queries_(rounded_up(most, S::kPanel) * d_),
        ends_(rounded_up(most, S::kPanel)),
        begins_(rounded_up(most, S::kPanel)),
        scores_(kBlockRows * S::kPanel) {}

  /// Tokens [first, first + count), query heads [head, head + heads): a head's tokens side by side, in
  /// `lanes` of them, no fewer than there are.
  INLINE void take(int64_t first, int64_t count, int64_t head, int64_t heads, int64_t lanes, int64_t begin,
                   int64_t window) {
    const int64_t all = heads * lanes;
    panels_ = rounded_up(all, S::kPanel) / S::kPanel;
    auto end_of = [&](int64_t token) { return of_.first + (first + token) * of_.stride + 1; };
    auto begin_of = [&](int64_t token) {
      return window > 0 ? std::max(begin, end_of(token) - window) : begin;
    };
    for (int64_t i = 0; i < panels_ * S::kPanel; ++i) {
      const int64_t token = i % lanes;
      const int64_t shown = std::min(token, count - 1);
      ends_.data()[i] = static_cast<float>(end_of(shown));
      begins_.data()[i] = static_cast<float>(begin_of(shown));
      float* to = queries_.data() + i / S::kPanel * d_ * S::kPanel + i % S::kPanel;
      if (i >= all || token >= count) {  // none
        for (int64_t j = 0; j < d_; ++j) to[j * S::kPanel] = 0;
        continue;
      }
      const float* q = of_.q + static_cast<size_t>(first + token) * of_.token_stride +
                       static_cast<size_t>(head + i / lanes) * of_.head_stride;
      for (int64_t j = 0; j < d_; ++j) to[j * S::kPanel] = q[j] * of_.logits.scale;
    }
    from_ = begin_of(0);
    seen_by_all_ = end_of(0);
    from_all_ = begin_of(count - 1);
    end_ = end_of(count - 1);
  }

  int64_t panels() const { return panels_; }
  /// Rows that any of them sees.
  int64_t from() const { return from_; }
  int64_t end() const { return end_; }

  /// Scores [count, panel] of a panel with the block's rows, [first, first + count): −∞ where one is not
  /// seen.
  INLINE float* score(int64_t panel, Block& keys, int64_t first, int64_t count) {
    const float* q = queries_.data() + panel * d_ * S::kPanel;
    float* scores = scores_.data();
    for (int64_t i = 0; i < count; i += S::kRows)
      multiply<wide, false>(keys.wide.data() + i * keys.stride, keys.stride, 1, d_, q, scores + i * S::kPanel,
                            nullptr);
    if (const float cap = of_.logits.softcap; cap > 0)
      for (int64_t i = 0; i < count * S::kPanel; i += S::kWidth)
        store(cap_lanes(load<Vector>(scores + i), cap), scores + i);
    if (first + count <= seen_by_all_ && first >= from_all_) return scores;
    for (int64_t half = 0; half < 2; ++half) {
      const auto ends = load<Vector>(ends_.data() + panel * S::kPanel + half * S::kWidth);
      const auto begins = load<Vector>(begins_.data() + panel * S::kPanel + half * S::kWidth);
      for (int64_t i = 0; i < count; ++i) {
        const auto row = static_cast<float>(first + i);
        float* at = scores + i * S::kPanel + half * S::kWidth;
        const Vector none = Vector{} - INFINITY;
        const auto x = ends > row ? load<Vector>(at) : none;
        store(begins <= row ? x : none, at);
      }
    }
    return scores;
  }

 private:
  CausalQueries of_;
  int64_t d_;
  Floats queries_;
  Floats ends_, begins_;  // of each query; exact up to 2²⁴ rows, and compared as numbers of lanes are fastest
  Floats scores_;
  int64_t panels_ = 0;
  int64_t from_ = 0, from_all_ = 0, seen_by_all_ = 0, end_ = 0;
};

/// A panel's scores [count, panel] become weights, relative to the highest score so far, which they may
/// raise. `keep`: what earlier sums must be multiplied by for that.
template <bool wide>
INLINE void weigh(float* scores, int64_t count, float* highest, float* weight, float* keep) {
  using S = Shape<wide>;
  using Vector = typename S::Vector;
  for (int64_t half = 0; half < S::kPanel; half += S::kWidth) {
    const auto before = load<Vector>(highest + half);
    auto most = before;
    for (int64_t i = 0; i < count; ++i) {
      const auto x = load<Vector>(scores + i * S::kPanel + half);
      most = x > most ? x : most;
    }
    Vector sum = {};
    for (int64_t i = 0; i < count; ++i) {
      const auto x = exp_lanes(load<Vector>(scores + i * S::kPanel + half) - most);
      sum += x;
      store(x, scores + i * S::kPanel + half);
    }
    const auto factor = exp_lanes(before - most);
    store(load<Vector>(weight + half) * factor + sum, weight + half);
    store(most, highest + half);
    store(factor, keep + half);
  }
}

template <bool wide>
INLINE void attend_body(const CausalQueries& queries, const HostRows& k, const HostRows& v,
                        const CausalRange& range, const CausalResults& to, int ith, int nth) {
  using S = Shape<wide>;
  const int64_t d = queries.d_head;
  const int64_t columns = rounded_up(d, S::kRows);
  const int64_t heads = queries.n_head_kv;
  const int64_t share = queries.n_head / heads;
  // As many tokens as stay in the cache, but a part for every thread.
  const int64_t most = std::max<int64_t>(
      S::kPanel, kTileBytes / (2 * columns * static_cast<int64_t>(sizeof(float))) / S::kPanel * S::kPanel);
  const int64_t step = std::clamp<int64_t>(most / share, 1, (queries.tokens * heads + nth - 1) / nth);
  const int64_t tiles = (queries.tokens + step - 1) / step;
  Tile<wide> tile(queries, step * share);
  const int64_t lanes = rounded_up(step * share, S::kPanel);
  Floats sums(lanes * columns), highest(lanes), weight(lanes), keep(S::kPanel);
  Block keys(d, d), values(d, columns);
  for (int64_t unit = ith; unit < tiles * heads; unit += nth) {
    const int64_t head = unit / tiles;
    const int64_t first = unit % tiles * step;
    const int64_t count = std::min(step, queries.tokens - first);
    tile.take(first, count, head * share, share, count,
              range.begins.empty() ? 0 : range.begins[static_cast<size_t>(head)], range.window);
    std::fill_n(sums.data(), lanes * columns, 0.0f);
    for (int64_t i = 0; i < lanes; ++i) {
      const bool sink = range.sinks != nullptr;
      highest.data()[i] = sink ? range.sinks[head * share + std::min(i / count, share - 1)] : kLowest;
      weight.data()[i] = sink ? 1.0f : 0.0f;
    }
    for (int64_t row = tile.from(); row < tile.end(); row += kBlockRows) {
      const int64_t rows = std::min(kBlockRows, tile.end() - row);
      keys.read(k, head, row, rows);
      values.read(v, head, row, rows);
      for (int64_t panel = 0; panel < tile.panels(); ++panel) {
        float* weights = tile.score(panel, keys, row, rows);
        weigh<wide>(weights, rows, highest.data() + panel * S::kPanel, weight.data() + panel * S::kPanel,
                    keep.data());
        for (int64_t i = 0; i < columns; i += S::kRows)
          multiply<wide, true>(values.wide.data() + i, 1, columns, rows, weights,
                               sums.data() + (panel * columns + i) * S::kPanel, keep.data());
      }
    }
    for (int64_t i = 0; i < count * share; ++i) {
      const auto token = static_cast<size_t>(first + i % count);
      const int64_t query_head = head * share + i / count;
      float* out = to.out + token * to.out_stride + query_head * d;
      const float* from = sums.data() + i / S::kPanel * columns * S::kPanel + i % S::kPanel;
      const float factor = 1.0f / weight.data()[i];
      for (int64_t j = 0; j < d; ++j) out[j] = from[j * S::kPanel] * factor;
      to.log_sums[token * to.log_sums_stride + static_cast<size_t>(query_head)] =
          highest.data()[i] + std::log(weight.data()[i]);
    }
  }
}

/// Sums of neighbours: four of a's, then four of b's.
INLINE Lanes add_pairs(Lanes a, Lanes b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) +
         __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}

/// The sums of each of as many vectors as one has lanes.
INLINE Lanes sum_lanes(const float* vectors) {
  Lanes x[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) x[i] = load<Lanes>(vectors + i * kLanes);
  return add_pairs(add_pairs(add_pairs(x[0], x[1]), add_pairs(x[2], x[3])),
                   add_pairs(add_pairs(x[4], x[5]), add_pairs(x[6], x[7])));
}

/// log Σ exp(score) of each of the tile's queries.
template <bool wide>
INLINE void find_log_sums(Tile<wide>& tile, Block& keys, const HostRows& k, int64_t kv_head,
                          float* log_sums) {
  using S = Shape<wide>;
  const int64_t lanes = tile.panels() * S::kPanel;
  Floats weight(lanes), keep(S::kPanel);
  std::fill_n(log_sums, lanes, kLowest);  // the highest scores, until all are known
  std::fill_n(weight.data(), lanes, 0.0f);
  for (int64_t row = 0; row < tile.end(); row += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, tile.end() - row);
    keys.read(k, kv_head, row, rows);
    for (int64_t panel = 0; panel < tile.panels(); ++panel)
      weigh<wide>(tile.score(panel, keys, row, rows), rows, log_sums + panel * S::kPanel,
                  weight.data() + panel * S::kPanel, keep.data());
  }
  for (int64_t i = 0; i < lanes; ++i) log_sums[i] += std::log(weight.data()[i]);
}

INLINE void add_to(Lanes x, float* of_head, float*) {
  store(load<Lanes>(of_head) + x, of_head);
}

INLINE void add_to(WideLanes x, float* of_low, float* of_high) {
  store(load<Lanes>(of_low) + __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7), of_low);
  store(load<Lanes>(of_high) + __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15), of_high);
}

template <bool wide>
INLINE void sums_body(const CausalQueries& queries, const HostRows& k, const LogSums& known, float* sums,
                      size_t sums_stride, int ith, int nth) {
  using S = Shape<wide>;
  using Vector = typename S::Vector;
  const int64_t d = queries.d_head;
  const int64_t heads = queries.n_head_kv;
  const int64_t share = queries.n_head / heads;
  const int64_t most = kTileBytes / (d * static_cast<int64_t>(sizeof(float)));
  const int64_t step = std::clamp(most / share / kLanes * kLanes, kLanes, rounded_up(queries.tokens, kLanes));
  Tile<wide> tile(queries, step * share);
  Floats log_sums(rounded_up(step * share, S::kPanel));
  // Of each query head of the KV head: a row's sums with the queries of so many lanes.
  Floats received(share * kBlockRows * kLanes);
  Block keys(d, d);
  // What a query gives to a row is known once all of its rows are. Where it is, threads can share them.
  const int64_t parts = known.of != nullptr ? (nth + heads - 1) / heads : 1;
  for (int64_t unit = ith; unit < heads * parts; unit += nth) {
    const int64_t head = unit / parts;
    for (int64_t first = 0; first < queries.tokens; first += step) {
      const int64_t count = std::min(step, queries.tokens - first);
      const int64_t lanes = rounded_up(count, kLanes);  // of a query head
      tile.take(first, count, head * share, share, lanes, 0, 0);
      if (known.of == nullptr) find_log_sums<wide>(tile, keys, k, head, log_sums.data());
      for (int64_t i = 0; i < tile.panels() * S::kPanel; ++i) {
        const int64_t token = i % lanes;
        const int64_t query_head = head * share + i / lanes;
        if (i >= share * lanes || token >= count)
          log_sums.data()[i] = -kLowest;  // no query, which gives nothing
        else if (known.of != nullptr)
          log_sums.data()[i] =
              known.of[static_cast<size_t>(first + token) * known.stride + static_cast<size_t>(query_head)];
      }
      for (int64_t row = unit % parts * kBlockRows; row < tile.end(); row += parts * kBlockRows) {
        const int64_t rows = std::min(kBlockRows, tile.end() - row);
        keys.read(k, head, row, rows);
        std::fill_n(received.data(), share * kBlockRows * kLanes, 0.0f);
        for (int64_t panel = 0; panel < tile.panels(); ++panel) {
          const float* scores = tile.score(panel, keys, row, rows);
          for (int64_t half = 0; half < S::kPanel; half += S::kWidth) {
            const int64_t lane = panel * S::kPanel + half;
            if (lane >= share * lanes) break;
            float* low = received.data() + lane / lanes * kBlockRows * kLanes;
            float* high = received.data() +
                          std::min((lane + S::kWidth - kLanes) / lanes, share - 1) * kBlockRows * kLanes;
            const auto log_sum = load<Vector>(log_sums.data() + lane);
            for (int64_t i = 0; i < rows; ++i)
              add_to(exp_lanes(load<Vector>(scores + i * S::kPanel + half) - log_sum), low + i * kLanes,
                     high + i * kLanes);
          }
        }
        for (int64_t h = 0; h < share; ++h) {
          float* to = sums + static_cast<size_t>(head * share + h) * sums_stride + row;
          for (int64_t i = 0; i < rows; i += kLanes) {
            const auto some = sum_lanes(received.data() + (h * kBlockRows + i) * kLanes);
            for (int64_t j = 0; j < std::min(kLanes, rows - i); ++j) to[i + j] += some[j];
          }
        }
      }
    }
  }
}

#define ATTEND_PARAMETERS                                                                       \
  const CausalQueries &queries, const HostRows &k, const HostRows &v, const CausalRange &range, \
      const CausalResults &to, int ith, int nth
#define SUMS_PARAMETERS                                                                                   \
  const CausalQueries &queries, const HostRows &k, const LogSums &known, float *sums, size_t sums_stride, \
      int ith, int nth
#define VARIANT(name, wide, ...)                                     \
  __VA_ARGS__ void attend_##name(ATTEND_PARAMETERS) {                \
    attend_body<wide>(queries, k, v, range, to, ith, nth);           \
  }                                                                  \
  __VA_ARGS__ void sums_##name(SUMS_PARAMETERS) {                    \
    sums_body<wide>(queries, k, known, sums, sums_stride, ith, nth); \
  }

#ifdef __x86_64__
VARIANT(avx2, false, [[gnu::target("avx2,fma,f16c")]])
VARIANT(avx512, true, [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]])
#else
VARIANT(any, false)
#endif

struct Variant {
  void (*attend)(ATTEND_PARAMETERS) = nullptr;
  void (*sums)(SUMS_PARAMETERS) = nullptr;
};

Variant best_variant() {
#ifdef __x86_64__
  switch (vectors_of_processor()) {
    case Vectors::kAvx512:
      return {attend_avx512, sums_avx512};
    case Vectors::kAvx2:
      return {attend_avx2, sums_avx2};
    case Vectors::kBaseline:
      break;
  }
  return {};  // in 16 registers of four numbers nothing is gained
#else
  return {attend_any, sums_any};
#endif
}

const Variant& variant() {
  static const Variant best = best_variant();
  return best;
}

}  // namespace

bool attends_causally() {
  return variant().attend != nullptr;
}

void attend_causal(ATTEND_PARAMETERS) {
  variant().attend(queries, k, v, range, to, ith, nth);
}

void add_causal_sums(SUMS_PARAMETERS) {
  variant().sums(queries, k, known, sums, sums_stride, ith, nth);
}

}  // namespace windowkv
