#include "engine/product_attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "backend/row_kernels.h"
#include "policy/observed_attention.h"

namespace windowkv {

namespace {

/// Attention weights of a tile: little enough to stay near the cores between the two products.
constexpr int64_t kTileBytes = int64_t{4} << 20;
/// Fewer queries than this make products too narrow.
constexpr int64_t kLeastTile = 32;

int64_t tile_queries(int64_t share, int64_t keys) {
  return std::max(kLeastTile, kTileBytes / (keys * share * static_cast<int64_t>(sizeof(float))));
}

/// Queries' elements of a token in the layer that has most.
int64_t most_query_elements(const HParams& hp) {
  int64_t most = 0;
  for (int layer = 0; layer < std::max(1, hp.n_layer); ++layer) {
    const auto heads = hp.heads(layer);
    most = std::max(most, int64_t{heads.n_head} * heads.d_head);
  }
  return most;
}

const float* row_of(const ggml_tensor* weights, int64_t query, int64_t head) {
  return reinterpret_cast<const float*>(static_cast<const char*>(weights->data) +
                                        static_cast<size_t>(query) * weights->nb[1] +
                                        static_cast<size_t>(head) * weights->nb[2]);
}

/// dst [seen, share] += the sum over queries of src[1], weights [seen, queries, share].
void add_weights(ggml_tensor* dst, int ith, int nth, void*) {
  const auto* weights = dst->src[1];
  const int64_t from = dst->ne[0] * ith / nth;
  const int64_t to = dst->ne[0] * (ith + 1) / nth;
  for (int64_t head = 0; head < dst->ne[1]; ++head) {
    auto* sum =
        reinterpret_cast<float*>(static_cast<char*>(dst->data) + static_cast<size_t>(head) * dst->nb[1]);
    for (int64_t query = 0; query < weights->ne[1]; ++query) {
      const auto* row = row_of(weights, query, head);
      for (int64_t i = from; i < to; ++i) sum[i] += row[i];
    }
  }
}

/// `weights` [seen, queries, share]: of query heads from `head` on, the first query at position `position`.
void add_received(Graph& graph, const ReceivedSum& received, ggml_tensor* weights, int64_t head,
                  int64_t position) {
  auto* ctx = graph.ctx();
  const auto [skipped, count] = received.among(position, weights->ne[1]);
  if (count == 0) return;
  auto* sums = received.sums;
  auto* place = ggml_view_2d(ctx, sums, weights->ne[0], weights->ne[2], sums->nb[1],
                             static_cast<size_t>(head) * sums->nb[1]);
  auto* some = ggml_view_3d(ctx, weights, weights->ne[0], count, weights->ne[2],
                            weights->nb[1] * static_cast<size_t>(received.stride), weights->nb[2],
                            static_cast<size_t>(skipped) * weights->nb[1]);
  graph.add(ggml_custom_inplace(ctx, place, &some, 1, add_weights, GGML_N_TASKS_MAX, nullptr));
}

float sum_of(std::span<const float> values) {
  std::array<float, 16> lanes = {};  // side by side in registers
  size_t i = 0;
  for (; i + lanes.size() <= values.size(); i += lanes.size())
    for (size_t lane = 0; lane < lanes.size(); ++lane) lanes[lane] += values[i + lane];
  const float whole = std::accumulate(lanes.begin(), lanes.end(), 0.0f);
  return std::accumulate(values.begin() + static_cast<std::ptrdiff_t>(i), values.end(), whole);
}

/// dst [queries, share]: what each query gives to the columns of all src, weights [columns, queries, share].
void sum_parts(ggml_tensor* dst, int ith, int nth, void*) {
  auto* sums = static_cast<float*>(dst->data);
  for (int64_t i = ith; i < ggml_nelements(dst); i += nth) {
    sums[i] = 0;
    for (const auto* part : std::span(dst->src)) {
      if (part == nullptr) break;
      sums[i] += sum_of({row_of(part, i % dst->ne[0], i / dst->ne[0]), static_cast<size_t>(part->ne[0])});
    }
  }
}

/// dst [columns] is raised to src[1], weights [columns, queries, share], over src[2], their queries' sums.
void raise_to_weights(ggml_tensor* dst, int ith, int nth, void*) {
  const auto* weights = dst->src[1];
  const auto* sums = static_cast<const float*>(dst->src[2]->data);
  auto* most = static_cast<float*>(dst->data);
  const int64_t from = dst->ne[0] * ith / nth;
  const int64_t to = dst->ne[0] * (ith + 1) / nth;
  for (int64_t i = 0; i < weights->ne[1] * weights->ne[2]; ++i) {
    if (!(sums[i] > 0)) continue;  // all of it went to other parts
    const float factor = 1.0f / sums[i];
    const auto* row = row_of(weights, i % weights->ne[1], i / weights->ne[1]);
    for (int64_t j = from; j < to; ++j) most[j] = std::max(most[j], row[j] * factor);
  }
}

/// `weights` [seen, queries, share] of a repetition's queries and a KV head: over all that they see, which is
/// turned into shares of what counts.
void add_replayed(Graph& graph, const ReplayMaxima& replayed, ggml_tensor* weights, int64_t head) {
  auto* ctx = graph.ctx();
  auto columns = [&](int64_t first, int64_t end) {
    return ggml_view_3d(ctx, weights, end - first, weights->ne[1], weights->ne[2], weights->nb[1],
                        weights->nb[2], static_cast<size_t>(first) * weights->nb[0]);
  };
  auto* part = columns(replayed.part.first, replayed.part.second);
  std::vector<ggml_tensor*> parts = {part, columns(replayed.prompt_tokens(), weights->ne[0])};
  if (replayed.sinks() > 0) parts.push_back(columns(0, replayed.sinks()));
  auto* sums = ggml_custom_4d(ctx, GGML_TYPE_F32, weights->ne[1], weights->ne[2], 1, 1, parts.data(),
                              static_cast<int>(parts.size()), sum_parts, GGML_N_TASKS_MAX, nullptr);
  std::vector<ggml_tensor*> from = {part, sums};
  graph.add(ggml_custom_inplace(ctx, replayed.of_head(ctx, head), from.data(), static_cast<int>(from.size()),
                                raise_to_weights, GGML_N_TASKS_MAX, nullptr));
}

struct Weighing {
  LogitScale logits;
  int64_t window;  ///< keys that a query sees, 0: all
};

/// a, products [keys, t, heads] of queries, the last of which has the last key, becomes the attention of each
/// to the keys up to its own that its window shows. src[1], where there is one: sinks [heads].
void weigh(ggml_tensor* a, int ith, int nth, void* userdata) {
  const auto& weighing = *static_cast<const Weighing*>(userdata);
  const auto* sinks = a->src[1];
  const int64_t keys = a->ne[0];
  for (int64_t i = ith; i < a->ne[1] * a->ne[2]; i += nth) {
    const int64_t query = i % a->ne[1];
    const int64_t head = i / a->ne[1];
    auto* row = reinterpret_cast<float*>(static_cast<char*>(a->data) + static_cast<size_t>(query) * a->nb[1] +
                                         static_cast<size_t>(head) * a->nb[2]);
    const int64_t end = keys - a->ne[1] + query + 1;
    const int64_t begin = weighing.window > 0 ? std::max<int64_t>(0, end - weighing.window) : 0;
    std::fill(row, row + begin, 0.0f);
    softmax(row + begin, end - begin, weighing.logits,
            sinks != nullptr ? static_cast<const float*>(sinks->data)[head] : -INFINITY);
    std::fill(row + end, row + keys, 0.0f);
  }
}

/// Attention [keys, t, share] of queries q [d_head, t, share], query heads from `head` on, over k [d_head,
/// keys], the last of which is the last query's own.
ggml_tensor* build_weights(Graph& graph, const LayerAttention& layer, ggml_tensor* q, ggml_tensor* k,
                           int64_t head) {
  auto* ctx = graph.ctx();
  std::vector<ggml_tensor*> sinks;
  if (layer.sinks != nullptr)
    sinks.push_back(ggml_view_1d(ctx, layer.sinks, q->ne[2], static_cast<size_t>(head) * layer.sinks->nb[0]));
  return ggml_custom_inplace(ctx, build_products(ctx, q, k), sinks.data(), static_cast<int>(sinks.size()),
                             weigh, GGML_N_TASKS_MAX, graph.hold(Weighing{layer.logits, layer.window}));
}

}  // namespace

ProductAttention::ProductAttention(const Backends& backends, const HParams& hp, int64_t chunk)
    : storage_(backends, "a chunk's attention", 1) {
  out_ = storage_.add(GGML_TYPE_F32, most_query_elements(hp), chunk);
  storage_.allocate(/*clear=*/false);
}

ggml_tensor* ProductAttention::build(Graph& graph, const LayerAttention& layer, ggml_tensor* q,
                                     const KvRows& rows, int64_t end, int64_t column,
                                     std::span<const int64_t> begins, std::span<const ReceivedSum> sums,
                                     const ReplayMaxima* replayed) const {
  auto* ctx = graph.ctx();
  const int64_t t = q->ne[2];
  const int64_t d_head = q->ne[0];
  const int64_t n_head_kv = rows.k()->ne[0] / d_head;
  const int64_t share = q->ne[1] / n_head_kv;
  // Side by side whatever the layer's sizes.
  const size_t token = ggml_row_size(GGML_TYPE_F32, d_head * q->ne[1]);
  for (int64_t h = 0; h < n_head_kv; ++h) {
    const int64_t begin = std::max(begins.empty() ? 0 : begins[static_cast<size_t>(h)],
                                   layer.window > 0 ? end + 1 - layer.window : 0);
    const int64_t first = end - begin;
    const int64_t keys = first + t;
    const int64_t tile = tile_queries(share, layer.window > 0 ? std::min(keys, layer.window) : keys);
    auto* numbers = build_numbers(ctx, keys);
    auto widened = [&](ggml_tensor* all) {
      auto* head =
          ggml_view_2d(ctx, all, d_head, keys, all->nb[1],
                       static_cast<size_t>(begin) * all->nb[1] + ggml_row_size(all->type, h * d_head));
      return build_widened(ctx, head, numbers);
    };
    auto* k = widened(rows.k());
    auto* v = widened(rows.v());
    for (int64_t start = 0; start < t; start += tile) {
      const int64_t count = std::min(tile, t - start);
      const int64_t hidden = layer.window > 0 ? std::max<int64_t>(0, first + start + 1 - layer.window) : 0;
      const int64_t seen = first + start + count - hidden;
      auto* queries = ggml_cont(ctx, ggml_view_3d(ctx, q, d_head, count, share, q->nb[2], q->nb[1],
                                                  static_cast<size_t>(start) * q->nb[2] +
                                                      static_cast<size_t>(h * share) * q->nb[1]));
      auto shown_rows = [&](ggml_tensor* all) {
        return ggml_view_2d(ctx, all, d_head, seen, all->nb[1], static_cast<size_t>(hidden) * all->nb[1]);
      };
      auto* weights = build_weights(graph, layer, queries, shown_rows(k), h * share);
      for (const auto& received : sums) add_received(graph, received, weights, h * share, first + start);
      if (replayed != nullptr) add_replayed(graph, *replayed, weights, h);
      auto* out = ggml_out_prod(ctx, shown_rows(v),
                                ggml_transpose(ctx, ggml_reshape_2d(ctx, weights, seen, count * share)));
      auto* place = ggml_view_3d(
          ctx, out_, d_head, count, share, token, ggml_row_size(GGML_TYPE_F32, d_head),
          static_cast<size_t>(column + start) * token + ggml_row_size(GGML_TYPE_F32, h * share * d_head));
      graph.add(ggml_cpy(ctx, ggml_reshape_3d(ctx, out, d_head, count, share), place));
    }
  }
  return ggml_view_2d(ctx, out_, d_head * q->ne[1], t, token, static_cast<size_t>(column) * token);
}

size_t ProductAttention::nodes(const HParams& hp, int64_t chunk) {
  const int64_t tiles = (chunk + kLeastTile - 1) / kLeastTile;
  return static_cast<size_t>(hp.most_heads().n_head_kv) *
             (8 + (20 + 4 * kMostStrides) * static_cast<size_t>(tiles)) +
         8;
}

int64_t ProductAttention::result_bytes(const HParams& hp, int64_t chunk) {
  return 4 * chunk * most_query_elements(hp);
}

int64_t ProductAttention::bytes(const HParams& hp, int64_t n, int64_t chunk) {
  int64_t most = 0;
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    const auto heads = hp.heads(layer);
    const int64_t share = heads.n_head / heads.n_head_kv;
    most = std::max(most, 2 * n * heads.d_head + n * std::min(chunk, tile_queries(share, n)) * share);
  }
  return 4 * most;
}

}  // namespace windowkv
