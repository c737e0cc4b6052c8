// Queries lie side by side, one in each lane of a register: their products with a row's elements are sums of
// vectors, and so are the softmax and its maxima, without a sum across lanes anywhere. A block of rows is
// widened once for all queries of a tile.
#include "backend/causal_attention.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "backend/float_products.h"
#include "backend/processor.h"
#include "backend/targets.h"
#include "backend/word_products.h"

namespace windowkv {

namespace {

/// Queries of some tokens and heads, and which rows each sees.
template <typename Products>
class Tile {
 public:
  using P = Products;
  using Vector = typename P::Vector;

  Tile(const CausalQueries& queries, int64_t most)
      : of_(queries),
        queries_(most, queries.d_head),
        ends_(rounded_up(most, P::kPanel)),
        begins_(rounded_up(most, P::kPanel)) {}

  /// Tokens [first, first + count), query heads [head, head + heads): a head's tokens side by side, in
  /// `lanes` of them, no fewer than there are.
  INLINE void take(int64_t first, int64_t count, int64_t head, int64_t heads, int64_t lanes, int64_t begin,
                   int64_t window) {
    const int64_t all = heads * lanes;
    panels_ = rounded_up(all, P::kPanel) / P::kPanel;
    auto end_of = [&](int64_t token) { return of_.first + (first + token) * of_.stride + 1; };
    auto begin_of = [&](int64_t token) {
      return window > 0 ? std::max(begin, end_of(token) - window) : begin;
    };
    for (int64_t i = 0; i < panels_ * P::kPanel; ++i) {
      const int64_t token = i % lanes;
      const int64_t shown = std::min(token, count - 1);
      ends_.data()[i] = static_cast<float>(end_of(shown));
      begins_.data()[i] = static_cast<float>(begin_of(shown));
      const float* q = i < all && token < count
                           ? of_.q + static_cast<size_t>(first + token) * of_.token_stride +
                                 static_cast<size_t>(head + i / lanes) * of_.head_stride
                           : nullptr;
      queries_.set(i, q, of_.logits.scale);
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
  INLINE void score(int64_t panel, const typename P::Keys& keys, int64_t first, int64_t count,
                    float* scores) const {
    P::score(queries_, panel, keys, count, scores);
    if (const float cap = of_.logits.softcap; cap > 0)
      for (int64_t i = 0; i < count * P::kPanel; i += P::kWidth)
        store(cap_lanes(load<Vector>(scores + i), cap), scores + i);
    if (first + count <= seen_by_all_ && first >= from_all_) return;
    for (int64_t half = 0; half < 2; ++half) {
      const auto ends = load<Vector>(ends_.data() + panel * P::kPanel + half * P::kWidth);
      const auto begins = load<Vector>(begins_.data() + panel * P::kPanel + half * P::kWidth);
      for (int64_t i = 0; i < count; ++i) {
        const auto row = static_cast<float>(first + i);
        float* at = scores + i * P::kPanel + half * P::kWidth;
        const Vector none = Vector{} - INFINITY;
        const auto x = ends > row ? load<Vector>(at) : none;
        store(begins <= row ? x : none, at);
      }
    }
  }

 private:
  CausalQueries of_;
  typename P::Queries queries_;
  Floats ends_, begins_;  // of each query; exact up to 2²⁴ rows, and compared as numbers of lanes are fastest
  int64_t panels_ = 0;
  int64_t from_ = 0, from_all_ = 0, seen_by_all_ = 0, end_ = 0;
};

template <typename Products>
INLINE void attend_body(const CausalQueries& queries, const HostRows& k, const HostRows& v,
                        const CausalRange& range, const CausalResults& to, int ith, int nth) {
  using P = Products;
  const int64_t d = queries.d_head;
  const int64_t heads = queries.n_head_kv;
  const int64_t share = queries.n_head / heads;
  // As many tokens as stay in the cache, but a part for every thread.
  const int64_t most = std::max(P::kPanel, P::most_queries(d) / P::kPanel * P::kPanel);
  const int64_t step = std::clamp<int64_t>(most / share, 1, (queries.tokens * heads + nth - 1) / nth);
  const int64_t tiles = (queries.tokens + step - 1) / step;
  Tile<P> tile(queries, step * share);
  const int64_t lanes = rounded_up(step * share, P::kPanel);
  Floats sums(lanes * d), highest(lanes), weight(lanes);
  PanelWeights weights(P::kPanel);
  typename P::Keys keys(d);
  typename P::Values values(d);
  for (int64_t unit = ith; unit < tiles * heads; unit += nth) {
    const int64_t head = unit / tiles;
    const int64_t first = unit % tiles * step;
    const int64_t count = std::min(step, queries.tokens - first);
    tile.take(first, count, head * share, share, count,
              range.begins.empty() ? 0 : range.begins[static_cast<size_t>(head)], range.window);
    std::fill_n(sums.data(), lanes * d, 0.0f);
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
        tile.score(panel, keys, row, rows, weights.of.data());
        P::weigh(weights, rows, highest.data() + panel * P::kPanel, weight.data() + panel * P::kPanel);
        P::add(values, weights, rows, sums.data() + panel * d * P::kPanel);
      }
    }
    for (int64_t i = 0; i < count * share; ++i) {
      const auto token = static_cast<size_t>(first + i % count);
      const int64_t query_head = head * share + i / count;
      float* out = to.out + token * to.out_stride + query_head * d;
      const float* from = sums.data() + i / P::kPanel * d * P::kPanel + i % P::kPanel;
      const float factor = 1.0f / weight.data()[i];
      for (int64_t j = 0; j < d; ++j) out[j] = from[j * P::kPanel] * factor;
      to.log_sums[token * to.log_sums_stride + static_cast<size_t>(query_head)] =
          highest.data()[i] + std::log(weight.data()[i]);
    }
  }
}

/// log Σ exp(score) of each of the tile's queries.
template <typename P>
INLINE void find_log_sums(const Tile<P>& tile, typename P::Keys& keys, const HostRows& k, int64_t kv_head,
                          PanelWeights& weights, float* log_sums) {
  const int64_t lanes = tile.panels() * P::kPanel;
  Floats weight(lanes);
  std::fill_n(log_sums, lanes, kLowest);  // the highest scores, until all are known
  std::fill_n(weight.data(), lanes, 0.0f);
  for (int64_t row = 0; row < tile.end(); row += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, tile.end() - row);
    keys.read(k, kv_head, row, rows);
    for (int64_t panel = 0; panel < tile.panels(); ++panel) {
      tile.score(panel, keys, row, rows, weights.of.data());
      P::weigh(weights, rows, log_sums + panel * P::kPanel, weight.data() + panel * P::kPanel);
    }
  }
  for (int64_t i = 0; i < lanes; ++i) log_sums[i] += std::log(weight.data()[i]);
}

/// Of what rows receive from queries the sum, or the most that one gives.
template <bool most>
INLINE void join_to(Lanes x, float* of_head, float*) {
  store(joined<most>(load<Lanes>(of_head), x), of_head);
}

template <bool most>
INLINE void join_to(WideLanes x, float* of_low, float* of_high) {
  join_to<most>(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7), of_low, nullptr);
  join_to<most>(__builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15), of_high, nullptr);
}

/// `begun`: whether there are sums to be added to.
template <typename Products, bool most>
INLINE void sums_body(const CausalQueries& queries, const HostRows& k, const LogSums& known, bool begun,
                      float* sums, size_t sums_stride, int ith, int nth) {
  using P = Products;
  using Vector = typename P::Vector;
  const int64_t d = queries.d_head;
  const int64_t kv_heads = queries.n_head_kv;
  const int64_t share = queries.n_head / kv_heads;
  const int64_t at_once = 2 * P::most_queries(d);  // nothing is summed up beside them
  const int64_t step =
      std::clamp(at_once / share / kLanes * kLanes, kLanes, rounded_up(queries.tokens, kLanes));
  Tile<P> tile(queries, step * share);
  PanelWeights weights(P::kPanel);
  Floats log_sums(rounded_up(step * share, P::kPanel));
  // Of each query head of the KV head: a row's sums with the queries of so many lanes.
  Floats received(share * kBlockRows * kLanes);
  typename P::Keys keys(d);
  // What a query gives to a row is known once all of its rows are. Where it is, threads share a KV head's
  // rows, else its query heads.
  const int64_t threads = (nth + kv_heads - 1) / kv_heads;
  const int64_t parts = known.of != nullptr ? threads : std::min(threads, share);
  for (int64_t unit = ith; unit < kv_heads * parts; unit += nth) {
    const int64_t kv_head = unit / parts;
    const int64_t part = unit % parts;
    const bool by_rows = known.of != nullptr;
    const int64_t head = kv_head * share + (by_rows ? 0 : part * share / parts);
    const int64_t heads = by_rows ? share : kv_head * share + (part + 1) * share / parts - head;
    const int64_t skipped = by_rows ? part : 0;
    const int64_t every = by_rows ? parts : 1;
    const int64_t end = queries.first + (queries.tokens - 1) * queries.stride + 1;
    for (int64_t row = skipped * kBlockRows; !begun && row < end; row += every * kBlockRows)
      for (int64_t h = head; h < head + heads; ++h)
        std::fill_n(sums + static_cast<size_t>(h) * sums_stride + row, std::min(kBlockRows, end - row), 0.0f);
    for (int64_t first = 0; first < queries.tokens; first += step) {
      const int64_t count = std::min(step, queries.tokens - first);
      const int64_t lanes = rounded_up(count, kLanes);  // of a query head
      tile.take(first, count, head, heads, lanes, 0, 0);
      if (known.of == nullptr) find_log_sums<P>(tile, keys, k, kv_head, weights, log_sums.data());
      for (int64_t i = 0; i < tile.panels() * P::kPanel; ++i) {
        const int64_t token = i % lanes;
        const int64_t query_head = head + i / lanes;
        if (i >= heads * lanes || token >= count)
          log_sums.data()[i] = -kLowest;  // no query, which gives nothing
        else if (known.of != nullptr)
          log_sums.data()[i] =
              known.of[static_cast<size_t>(first + token) * known.stride + static_cast<size_t>(query_head)];
      }
      for (int64_t row = skipped * kBlockRows; row < tile.end(); row += every * kBlockRows) {
        const int64_t rows = std::min(kBlockRows, tile.end() - row);
        keys.read(k, kv_head, row, rows);
        std::fill_n(received.data(), heads * kBlockRows * kLanes, 0.0f);
        for (int64_t panel = 0; panel < tile.panels(); ++panel) {
          const float* scores = weights.of.data();
          tile.score(panel, keys, row, rows, weights.of.data());
          for (int64_t half = 0; half < P::kPanel; half += P::kWidth) {
            const int64_t lane = panel * P::kPanel + half;
            if (lane >= heads * lanes) break;
            float* low = received.data() + lane / lanes * kBlockRows * kLanes;
            float* high = received.data() +
                          std::min((lane + P::kWidth - kLanes) / lanes, heads - 1) * kBlockRows * kLanes;
            const auto log_sum = load<Vector>(log_sums.data() + lane);
            for (int64_t i = 0; i < rows; ++i)
              join_to<most>(exp_lanes(load<Vector>(scores + i * P::kPanel + half) - log_sum),
                            low + i * kLanes, high + i * kLanes);
          }
        }
        for (int64_t h = 0; h < heads; ++h) {
          float* to = sums + static_cast<size_t>(head + h) * sums_stride + row;
          for (int64_t i = 0; i < rows; i += kLanes) {
            Lanes of_rows[kLanes];
            for (int64_t j = 0; j < kLanes; ++j)
              of_rows[j] = load<Lanes>(received.data() + (h * kBlockRows + i + j) * kLanes);
            Lanes some;
            join_lanes<most>(of_rows, &some);
            for (int64_t j = 0; j < std::min(kLanes, rows - i); ++j)
              to[i + j] = most ? std::max(to[i + j], some[j]) : to[i + j] + some[j];
          }
        }
      }
    }
  }
}

#define ATTEND_PARAMETERS                                                                       \
  const CausalQueries &queries, const HostRows &k, const HostRows &v, const CausalRange &range, \
      const CausalResults &to, int ith, int nth
#define SUMS_PARAMETERS                                                                                      \
  const CausalQueries &queries, const HostRows &k, const LogSums &known, bool most, bool begun, float *sums, \
      size_t sums_stride, int ith, int nth
#define VARIANT(name, Products, ...)                                                     \
  __VA_ARGS__ void attend_##name(ATTEND_PARAMETERS) {                                    \
    attend_body<Products>(queries, k, v, range, to, ith, nth);                           \
  }                                                                                      \
  __VA_ARGS__ void sums_##name(SUMS_PARAMETERS) {                                        \
    if (most)                                                                            \
      sums_body<Products, true>(queries, k, known, begun, sums, sums_stride, ith, nth);  \
    else                                                                                 \
      sums_body<Products, false>(queries, k, known, begun, sums, sums_stride, ith, nth); \
  }

#ifdef __x86_64__
VARIANT(avx2, FloatProducts<false>, AVX2)
VARIANT(avx2_words, WordProducts<false>, AVX2)
VARIANT(avx512, FloatProducts<true>, AVX512)
VARIANT(vnni_words, WordProducts<true>, AVX512)
#else
VARIANT(any, FloatProducts<false>)
#endif

struct Variant {
  void (*attend)(ATTEND_PARAMETERS) = nullptr;
  void (*sums)(SUMS_PARAMETERS) = nullptr;
};

Variant best_variant(bool rounded) {
#ifdef __x86_64__
  switch (vectors_of_processor()) {
    case Vectors::kVnni:
      if (rounded) return {attend_vnni_words, sums_vnni_words};
      [[fallthrough]];
    case Vectors::kAvx512:
      // Without VNNI products of whole numbers take as many instructions of 512 bits as those of floats.
      return {attend_avx512, sums_avx512};
    case Vectors::kAvx2:
      if (rounded) return {attend_avx2_words, sums_avx2_words};
      return {attend_avx2, sums_avx2};
    case Vectors::kBaseline:
      break;
  }
  return {};  // in 16 registers of four numbers nothing is gained
#else
  return {attend_any, sums_any};
#endif
}

const Variant& variant(bool rounded) {
  static const std::array best = {best_variant(false), best_variant(true)};
  return best[rounded ? 1 : 0];
}

}  // namespace

bool attends_causally() {
  return variant(false).attend != nullptr;
}

void attend_causal(ATTEND_PARAMETERS) {
  variant(queries.rounded).attend(queries, k, v, range, to, ith, nth);
}

void add_causal_sums(const CausalQueries& queries, const HostRows& k, const LogSums& known, float* sums,
                     size_t sums_stride, int ith, int nth) {
  variant(queries.rounded)
      .sums(queries, k, known, /*most=*/false, /*begun=*/true, sums, sums_stride, ith, nth);
}

void observe_causally(const CausalQueries& queries, const HostRows& k, const LogSums& known, bool most,
                      float* out, size_t out_stride, int ith, int nth) {
  variant(queries.rounded).sums(queries, k, known, most, /*begun=*/false, out, out_stride, ith, nth);
}

}  // namespace windowkv
