#include "engine/recall.h"

#include <algorithm>

#include "engine/layer_selection.h"

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

Recall::Recall(LoadedModel& m, std::unique_ptr<Selector> selector, int64_t n, int every)
    : m_(m),
      selector_(std::move(selector)),
      n_(n),
      every_(every),
      queries_(*m.backends, m.hp,
               std::min<int64_t>(std::min(kRecallQueries, every), selector_->observation())),
      first_(static_cast<size_t>(m.hp.n_layer)) {}

void Recall::attach(std::shared_ptr<const PrefixBlock> block) {
  block_ = std::move(block);
  first_queries_ = queries_.save();
}

void Recall::rewind() {
  queries_.restore(first_queries_);
  since_ = 0;
  rewound_ = true;
}

void Recall::before_step(const KvCache& cache) {
  if (!rewound_) return;
  if (chosen_) gather(cache, first_);
  rewound_ = chosen_ = false;
}

bool Recall::after_step(const KvCache& cache) {
  queries_.advance();
  if (++since_ < every_) return false;
  since_ = 0;
  choose(cache);
  chosen_ = true;
  return true;
}

void Recall::build_scoring() {
  const auto& hp = m_.hp;
  scoring_.emplace(*m_.backends, scoring_nodes(hp) * static_cast<size_t>(hp.n_layer) + 256);
  auto& graph = scoring_->graph;
  auto* ctx = graph.ctx();
  for (int first = 0; first < hp.n_layer;) {
    int last = first;
    while (last < selector_->settled_at(first)) ++last;
    std::vector<LayerView> views;
    for (int layer = first; layer <= last; ++layer) {
      if (!selector_->decides(layer)) continue;
      LayerView view;
      view.layer = layer;
      auto* q = ggml_reshape_3d(ctx, queries_.of(layer), hp.d_head, hp.n_head, queries_.rows());
      view.q = ggml_cont(ctx, ggml_permute(ctx, q, 0, 2, 1, 3));
      view.k = PrefixBlock::slice(ctx, block_->k(layer), 0, n_);
      view.after_prompt = true;
      view.on_cpu = m_.backends->is_cpu(m_.backends->device_of(layer));
      view.scale = hp.attention_scale;
      views.push_back(view);
    }
    settled_.push_back({first, last, views.empty() ? nullptr : graph.output(selector_->build(ctx, views))});
    first = last + 1;
  }
  scoring_->scheduler.allocate(graph);
}

void Recall::build_gathering(const KvCache& cache) {
  const auto& hp = m_.hp;
  gathering_.emplace(*m_.backends,
                     static_cast<size_t>(hp.n_layer) * (32 + 16 * static_cast<size_t>(hp.n_head_kv)));
  auto& graph = gathering_->graph;
  auto* ctx = graph.ctx();
  ids_.assign(static_cast<size_t>(hp.n_layer), nullptr);
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    const auto& first = first_[static_cast<size_t>(layer)];
    const auto count = static_cast<int64_t>(first.front().size());
    if (count == 0 || count == n_) continue;
    const auto lists = static_cast<int64_t>(first.size());
    auto* ids = ids_[static_cast<size_t>(layer)] = graph.input(GGML_TYPE_I32, count, lists);
    auto* slots = build_numbers(ctx, count);
    const auto& rows = cache.layer(layer).rows;
    for (auto [from, to] : {std::pair{block_->k(layer), rows.k()}, {block_->v(layer), rows.v()}})
      for (int64_t h = 0; h < hp.n_head_kv; ++h) {
        auto* source =
            ggml_view_2d(ctx, from, hp.d_head, n_, from->nb[1], static_cast<size_t>(h) * from->nb[2]);
        auto* target =
            ggml_view_2d(ctx, to, hp.d_head, count, to->nb[1], ggml_row_size(to->type, h * hp.d_head));
        auto* which = lists == 1 ? ids : ggml_view_1d(ctx, ids, count, static_cast<size_t>(h) * ids->nb[1]);
        graph.add(ggml_set_rows(ctx, target, ggml_get_rows(ctx, source, which), slots));
      }
  }
  gathering_->scheduler.allocate(graph);
  gathers_into_ = cache.version();
}

void Recall::gather(const KvCache& cache, const std::vector<KeptTokens>& kept) {
  if (!gathering_ || gathers_into_ != cache.version()) build_gathering(cache);
  for (size_t layer = 0; layer < kept.size(); ++layer)
    if (auto* ids = ids_[layer])
      for (size_t h = 0; h < kept[layer].size(); ++h)
        ggml_backend_tensor_set(ids, kept[layer][h].data(), h * ids->nb[1], ids->nb[1]);
  gathering_->scheduler.compute(gathering_->graph);
}

void Recall::choose(const KvCache& cache) {
  if (!scoring_) build_scoring();
  scoring_->scheduler.compute(scoring_->graph);
  selector_->restart();
  std::vector<KeptTokens> kept;
  std::vector<int32_t> picked;
  for (const auto& settled : settled_) {
    picked.resize(settled.picked != nullptr ? static_cast<size_t>(ggml_nelements(settled.picked)) : 0);
    if (!picked.empty())
      ggml_backend_tensor_get(settled.picked, picked.data(), 0, ggml_nbytes(settled.picked));
    for (int layer = settled.first; layer <= settled.last; ++layer) {
      auto& lists = kept.emplace_back(selector_->choose(layer, picked));
      for (auto& list : lists) fit(list, first_[static_cast<size_t>(layer)].front().size(), n_);
    }
  }
  gather(cache, kept);
}

}  // namespace windowkv
