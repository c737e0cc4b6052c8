#include "cache/last_queries.h"

#include "support/unique_id.h"

namespace windowkv {

LastQueries::LastQueries(const Backends& backends, const HParams& hp, int64_t tokens) : id_(unique_id()) {
  for (size_t device = 0; device < backends.device_count(); ++device) {
    const auto& run = backends.layer_runs()[device];
    if (run.count() == 0) continue;
    auto& storage =
        *storages_.emplace_back(std::make_unique<Storage>(backends, "the last queries", run.count(), device));
    for (int layer = run.first; layer <= run.last; ++layer) {
      const auto heads = hp.heads(layer);
      layers_.push_back(storage.add(GGML_TYPE_F32, int64_t{heads.d_head} * heads.n_head, tokens));
    }
    storage.allocate(/*clear=*/true);
  }
}

ggml_tensor* LastQueries::columns(ggml_context* ctx, int layer, int64_t first, int64_t count) const {
  auto* all = of(layer);
  return ggml_view_2d(ctx, all, all->ne[0], count, all->nb[1], static_cast<size_t>(first) * all->nb[1]);
}

void LastQueries::take(const LastQueries& last, int64_t place) {
  std::vector<uint8_t> queries;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    queries.resize(ggml_nbytes(last.layers_[layer]));
    ggml_backend_tensor_get(last.layers_[layer], queries.data(), 0, queries.size());
    ggml_backend_tensor_set(layers_[layer], queries.data(), static_cast<size_t>(place) * queries.size(),
                            queries.size());
  }
}

ggml_tensor* LastQueries::by_head(ggml_context* ctx, ggml_tensor* queries, int64_t d_head) {
  auto* heads = ggml_view_3d(ctx, queries, d_head, queries->ne[0] / d_head, queries->ne[1],
                             ggml_row_size(queries->type, d_head), queries->nb[1], 0);
  return ggml_cont(ctx, ggml_permute(ctx, heads, 0, 2, 1, 3));
}

std::vector<float> LastQueries::save() const {
  int64_t all = 0;
  for (const auto* layer : layers_) all += ggml_nelements(layer);
  std::vector<float> queries(static_cast<size_t>(all));
  auto* next = queries.data();
  for (auto* layer : layers_) {
    ggml_backend_tensor_get(layer, next, 0, ggml_nbytes(layer));
    next += ggml_nelements(layer);
  }
  return queries;
}

void LastQueries::restore(const std::vector<float>& queries) {
  const auto* next = queries.data();
  for (auto* layer : layers_) {
    ggml_backend_tensor_set(layer, next, 0, ggml_nbytes(layer));
    next += ggml_nelements(layer);
  }
}

}  // namespace windowkv
