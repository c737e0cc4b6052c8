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
