#include "engine/recall_copies.h"

#include <utility>

namespace windowkv {

namespace {

/// The list made `count` tokens long, of n: windows on a grid are not all of one size, and the cache has as
/// many rows as the first choice took. The oldest tokens go, or the newest that it lacks come.
void fit(std::vector<int32_t>& tokens, size_t count, int64_t n) {
  if (tokens.size() > count) tokens.erase(tokens.begin(), tokens.end() - static_cast<ptrdiff_t>(count));
  auto held = tokens.size();
  for (auto token = static_cast<int32_t>(n - 1); tokens.size() < count; --token)
    if (held > 0 && tokens[held - 1] == token)
      --held;
    else
      tokens.push_back(token);
}

}  // namespace

void RecallCopies::build(const KvCache& cache) {
  const auto n_layer = static_cast<size_t>(hp_.n_layer);
  graph_ = std::make_unique<StandingGraph>(
      backends_, n_layer * (32 + 16 * static_cast<size_t>(hp_.most_heads().n_head_kv)));
  auto& graph = graph_->graph;
  auto* ctx = graph.ctx();
  ids_.assign(n_layer, nullptr);
  for (int layer = 0; layer < hp_.n_layer; ++layer) {
    const auto& first = first_[static_cast<size_t>(layer)];
    const auto count = static_cast<int64_t>(first.front().size());
    if (count == 0 || count == n_) continue;
    const auto lists = static_cast<int64_t>(first.size());
    auto* ids = ids_[static_cast<size_t>(layer)] = graph.input(GGML_TYPE_I32, count, lists);
    auto* slots = build_numbers(ctx, count);
    const auto& rows = cache.layer(layer).rows;
    for (auto [from, to] : {std::pair{block_.k(layer), rows.k()}, {block_.v(layer), rows.v()}})
      for (int64_t h = 0; h < from->ne[2]; ++h) {
        auto* source =
            ggml_view_2d(ctx, from, from->ne[0], n_, from->nb[1], static_cast<size_t>(h) * from->nb[2]);
        auto* target =
            ggml_view_2d(ctx, to, from->ne[0], count, to->nb[1], ggml_row_size(to->type, h * from->ne[0]));
        auto* which = lists == 1 ? ids : ggml_view_1d(ctx, ids, count, static_cast<size_t>(h) * ids->nb[1]);
        graph.add(ggml_set_rows(ctx, target, ggml_get_rows(ctx, source, which), slots));
      }
  }
  graph_->scheduler.allocate(graph);
  version_ = cache.version();
}

void RecallCopies::copy(const KvCache& cache, std::vector<KeptTokens> kept) {
  if (!graph_ || version_ != cache.version()) build(cache);
  for (size_t layer = 0; layer < kept.size(); ++layer) {
    auto* ids = ids_[layer];
    if (ids == nullptr) continue;
    for (size_t h = 0; h < kept[layer].size(); ++h) {
      fit(kept[layer][h], static_cast<size_t>(ids->ne[0]), n_);
      ggml_backend_tensor_set(ids, kept[layer][h].data(), h * ids->nb[1], ids->nb[1]);
    }
  }
  graph_->scheduler.compute(graph_->graph);
}

}  // namespace windowkv
