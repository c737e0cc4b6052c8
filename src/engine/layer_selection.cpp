#include "engine/layer_selection.h"

#include <numeric>

namespace windowkv {

namespace {

/// Runs the selector's scoring graph; returns what it picked.
std::vector<int32_t> score(LoadedModel& m, Scheduler& scheduler, const Prompt& prompt, int layer,
                           const KvRows& rows, const Selector& selector) {
  Graph graph(4096);
  auto* ctx = graph.ctx();
  const int64_t n = prompt.tokens();
  LayerView view;
  view.layer = layer;
  if (const int64_t count = selector.observation(); count > 0) {
    auto qkv = m.family->attention_inputs(ctx, m.hp, m.weights, layer, prompt.observed_last(ctx, count),
                                          prompt.positions_at(ctx, n - count, count), Family::kQ);
    view.q = ggml_cont(ctx, ggml_permute(ctx, qkv.q, 0, 2, 1, 3));
  }
  view.k = KvRows::by_head(ctx, rows.k(), m.hp, n);
  view.accumulated = selector.accumulates() ? prompt.accumulated : nullptr;
  view.scale = m.hp.attention_scale;
  auto* picked = graph.output(selector.build(ctx, view));
  scheduler.run(graph);
  std::vector<int32_t> values(static_cast<size_t>(ggml_nelements(picked)));
  ggml_backend_tensor_get(picked, values.data(), 0, ggml_nbytes(picked));
  return values;
}

/// Copies the kept rows, or each head's part of them where heads keep different tokens.
void gather(LoadedModel& m, Scheduler& scheduler, const KvRows& rows, const KeptTokens& kept,
            const KvRows& to) {
  const auto count = static_cast<int64_t>(kept.front().size());
  const auto lists = static_cast<int64_t>(kept.size());
  const int64_t part = m.hp.kv_row() / lists;
  Graph graph(64 + 16 * kept.size());
  auto* ctx = graph.ctx();
  auto* ids = graph.input(GGML_TYPE_I32, count, lists);
  auto* slots = graph.input(GGML_TYPE_I64, count);
  for (auto [source, target] : {std::pair{rows.k(), to.k()}, {rows.v(), to.v()}})
    for (int64_t h = 0; h < lists; ++h) {
      auto head = [&](ggml_tensor* all) {
        return ggml_view_2d(ctx, all, part, all->ne[1], all->nb[1], ggml_row_size(all->type, h * part));
      };
      auto* list = ggml_view_1d(ctx, ids, count, static_cast<size_t>(h) * ids->nb[1]);
      // Not ggml_cpy, which cannot quantize into rows that lie apart.
      graph.add(ggml_set_rows(ctx, head(target), ggml_get_rows(ctx, head(source), list), slots));
    }
  scheduler.allocate(graph);
  for (size_t h = 0; h < kept.size(); ++h)
    ggml_backend_tensor_set(ids, kept[h].data(), h * ids->nb[1], ids->nb[1]);
  std::vector<int64_t> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  ggml_backend_tensor_set(slots, numbers.data(), 0, ggml_nbytes(slots));
  scheduler.compute(graph);
}

}  // namespace

void select_layer(LoadedModel& m, Scheduler& scheduler, const Prompt& prompt, int layer, const KvRows& rows,
                  Target& target) {
  auto& selector = *target.selector;
  auto& cache = target.cache->layer(layer);
  const auto picked =
      selector.decides(layer) ? score(m, scheduler, prompt, layer, rows, selector) : std::vector<int32_t>{};
  const auto kept = selector.choose(layer, picked);
  cache.length = static_cast<int64_t>(kept.front().size());
  if (cache.length > 0 && &cache.rows != &rows) gather(m, scheduler, rows, kept, cache.rows);
}

}  // namespace windowkv
