#include "engine/layer_selection.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "engine/query_moments.h"
#include "engine/recall.h"

namespace windowkv {

size_t scoring_nodes(const HParams& hp) {
  // Of every KV head its attention, of every query head what its values or expected attention take, and a
  // step of runs for each power of two that a window size may reach.
  return 512 + 28 * static_cast<size_t>(hp.n_head_kv) + 64 * static_cast<size_t>(hp.n_head);
}

size_t all_scoring_nodes(const HParams& hp) {
  return scoring_nodes(hp) * static_cast<size_t>(hp.n_layer) + 256;
}

namespace {

/// Runs the selector's scoring graph over the layers from `first` to `last` that decide; returns what it
/// picked.
std::vector<int32_t> score(LoadedModel& m, Scheduler& scheduler, const Pack& pack, int first, int last,
                           const RowsOf& rows_of, const Target& target) {
  const auto& selector = *target.selector;
  const size_t nodes = static_cast<size_t>(last - first + 1) * scoring_nodes(m.hp) + 256;
  Graph graph(nodes);
  auto* ctx = graph.ctx();
  const int64_t computed = pack.lengths()[target.prompt];
  std::vector<LayerView> views;
  for (int layer = first; layer <= last; ++layer) {
    if (!selector.decides(layer)) continue;
    LayerView view;
    view.layer = layer;
    if (const int64_t count = selector.observation(); count > 0) {
      auto* q = pack.observed(ctx, target.prompt, layer, computed - count, count);
      q = ggml_reshape_3d(ctx, q, m.hp.d_head, m.hp.n_head, count);
      view.q = ggml_cont(ctx, ggml_permute(ctx, q, 0, 2, 1, 3));
      if (pack.has_log_sums(layer))
        view.log_sums = pack.log_sums(ctx, target.prompt, layer, computed - count, count);
    }
    view.k = KvRows::by_head(ctx, rows_of(layer).k(), m.hp.d_head, target.past + computed);
    view.v = KvRows::by_head(ctx, rows_of(layer).v(), m.hp.d_head, target.past + computed);
    view.wo = m.weights.layers[static_cast<size_t>(layer)].wo;
    // No weights are read first, which would tell the scheduler where.
    auto* device = m.backends->backend(m.backends->device_of(layer));
    graph.read_on(view.k, device);
    graph.read_on(view.v, device);
    if (const int64_t stride = selector.stride(); stride > 0)
      graph.read_on(view.accumulated = pack.received(ctx, target.prompt, layer, stride), device);
    if (view.accumulated != nullptr && !ggml_is_contiguous(view.accumulated))
      view.accumulated = ggml_cont(ctx, view.accumulated);
    if (selector.replay().part > 0)
      graph.read_on(view.replayed = pack.replayed(ctx, target.prompt, layer), device);
    if (selector.query_moments()) {
      graph.read_on(view.moments = pack.moments(ctx, target.prompt, layer), device);
      view.moment_queries = computed - kMomentSinks;
      add_rotation(ctx, m, view, selector.ahead(), target.past + computed);
    }
    view.on_cpu = m.backends->is_cpu(m.backends->device_of(layer));
    view.scale = m.hp.attention_scale;
    view.softcap = m.hp.attention_softcap;
    views.push_back(view);
  }
  if (views.empty()) return {};
  auto* picked = graph.output(selector.build(ctx, views));
  // Only large groups of which every layer decides need more than the prefill's scheduler holds.
  std::optional<Scheduler> larger;
  (nodes <= scheduler.max_nodes() ? scheduler : larger.emplace(*m.backends, nodes)).run(graph);
  std::vector<int32_t> values(static_cast<size_t>(ggml_nelements(picked)));
  ggml_backend_tensor_get(picked, values.data(), 0, ggml_nbytes(picked));
  return values;
}

int64_t longest(const KeptTokens& kept) {
  size_t most = 0;
  for (const auto& list : kept) most = std::max(most, list.size());
  return static_cast<int64_t>(most);
}

/// KvCache::Layer::begins.
std::vector<int64_t> begins_of(const KeptTokens& kept, int64_t count, int n_head_kv) {
  if (std::ranges::all_of(kept, [=](const auto& list) { return static_cast<int64_t>(list.size()) == count; }))
    return {};
  std::vector<int64_t> begins;
  begins.reserve(static_cast<size_t>(n_head_kv));
  for (const auto& list : kept) begins.push_back(count - static_cast<int64_t>(list.size()));
  return begins;
}

}  // namespace

int layers_in_flight(const Selector& selector, const HParams& hp) {
  int most = 1;
  for (int layer = 0; layer < hp.n_layer; ++layer)
    most = std::max(most, hp.row_layer(selector.settled_at(layer) + 1) - hp.row_layer(layer));
  return most;
}

bool decides_anywhere(const Selector& selector, int n_layer) {
  for (int layer = 0; layer < n_layer; ++layer)
    if (selector.decides(layer)) return true;
  return false;
}

std::vector<SettledLayers> build_scorings(Graph& graph, const LoadedModel& m, const Selector& selector,
                                          const std::function<void(ggml_context*, LayerView&)>& fill,
                                          const std::function<bool(int layer)>& wanted) {
  std::vector<SettledLayers> settled;
  for (int first = 0, last; first < m.hp.n_layer; first = last + 1) {
    last = selector.settled_at(first);
    bool any = !wanted;
    for (int layer = first; layer <= last; ++layer) any = any || wanted(layer);
    if (!any) {
      settled.push_back({first, last, nullptr, /*wanted=*/false});
      continue;
    }
    std::vector<LayerView> views;
    for (int layer = first; layer <= last; ++layer) {
      if (!selector.decides(layer)) continue;
      auto& view = views.emplace_back();
      view.layer = layer;
      view.on_cpu = m.backends->is_cpu(m.backends->device_of(layer));
      view.scale = m.hp.attention_scale;
      view.softcap = m.hp.attention_softcap;
      fill(graph.ctx(), view);
    }
    settled.push_back(
        {first, last, views.empty() ? nullptr : graph.output(selector.build(graph.ctx(), views))});
  }
  return settled;
}

std::vector<KeptTokens> choose_settled(std::span<const SettledLayers> settled, Selector& selector) {
  std::vector<KeptTokens> kept;
  std::vector<int32_t> picked;
  for (const auto& layers : settled) {
    if (!layers.wanted) {
      kept.resize(static_cast<size_t>(layers.last) + 1);
      continue;
    }
    picked.resize(layers.picked != nullptr ? static_cast<size_t>(ggml_nelements(layers.picked)) : 0);
    if (!picked.empty()) ggml_backend_tensor_get(layers.picked, picked.data(), 0, ggml_nbytes(layers.picked));
    for (int layer = layers.first; layer <= layers.last; ++layer)
      kept.push_back(selector.choose(layer, picked));
  }
  return kept;
}

int64_t gather(Scheduler& scheduler, const KvRows& rows, const KeptTokens& kept, const KvRows& to) {
  const int64_t count = longest(kept);
  if (count == 0) return 0;
  const auto lists = static_cast<int64_t>(kept.size());
  const int64_t part = rows.k()->ne[0] / lists;
  Graph graph(64 + 16 * kept.size());
  auto* ctx = graph.ctx();
  auto* ids = graph.input(GGML_TYPE_I32, count, lists);
  auto* slots = graph.input(GGML_TYPE_I64, count);
  // One view of a list for K and V, none where there is one list: the scheduler copies each to the device.
  std::vector<ggml_tensor*> views, places;
  for (int64_t h = 0; h < lists; ++h) {
    const auto length = static_cast<int64_t>(kept[static_cast<size_t>(h)].size());
    views.push_back(lists == 1 ? ids : ggml_view_1d(ctx, ids, length, static_cast<size_t>(h) * ids->nb[1]));
    places.push_back(length == count ? slots
                                     : ggml_view_1d(ctx, slots, length,
                                                    static_cast<size_t>(count - length) * slots->nb[0]));
  }
  for (auto [source, target] : {std::pair{rows.k(), to.k()}, {rows.v(), to.v()}})
    for (int64_t h = 0; h < lists; ++h) {
      if (kept[static_cast<size_t>(h)].empty()) continue;
      auto head = [&](ggml_tensor* all) {
        return ggml_view_2d(ctx, all, part, all->ne[1], all->nb[1], ggml_row_size(all->type, h * part));
      };
      // Not ggml_cpy, which cannot quantize into rows that lie apart.
      graph.add(ggml_set_rows(ctx, head(target),
                              ggml_get_rows(ctx, head(source), views[static_cast<size_t>(h)]),
                              places[static_cast<size_t>(h)]));
    }
  scheduler.allocate(graph);
  for (size_t h = 0; h < kept.size(); ++h)
    ggml_backend_tensor_set(ids, kept[h].data(), h * ids->nb[1], kept[h].size() * sizeof(int32_t));
  std::vector<int64_t> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  ggml_backend_tensor_set(slots, numbers.data(), 0, ggml_nbytes(slots));
  scheduler.compute(graph);
  return count;
}

bool capacity_is_late(const Selector& selector, int layer) {
  return selector.heads_differ() && selector.decides(layer);
}

bool keeps_whole(const Selector& selector, int layer, int64_t n, KvTypes types) {
  // One head may keep all where others do not.
  return selector.capacity(layer) >= n && !capacity_is_late(selector, layer) && types == KvTypes{};
}

void settle_layers(LoadedModel& m, Scheduler& scheduler, const Pack& pack, int layer, const RowsOf& rows_of,
                   Target& target) {
  auto& selector = *target.selector;
  if (selector.settled_at(target.waiting) > layer) return;
  const auto picked = score(m, scheduler, pack, target.waiting, layer, rows_of, target);
  for (; target.waiting <= layer; ++target.waiting) {
    auto& cache = target.cache->layer(target.waiting);
    auto kept = selector.choose(target.waiting, picked);
    if (target.recall == nullptr || !Recall::in_place(m)) {
      cache.length = cache.prompt = longest(kept);
      cache.begins = begins_of(kept, cache.length, m.hp.n_head_kv);
      if (capacity_is_late(selector, target.waiting))
        target.cache->set_capacity(target.waiting, cache.length + target.reserve);
      if (cache.length > 0)
        if (const auto& rows = rows_of(target.waiting); &cache.rows != &rows)
          gather(scheduler, rows, kept, cache.rows);
    }
    if (target.recall != nullptr) target.recall->starts_with(target.waiting, std::move(kept));
  }
}

}  // namespace windowkv
