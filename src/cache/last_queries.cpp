#include "cache/last_queries.h"

#include "support/unique_id.h"

namespace windowkv {

LastQueries::LastQueries(const Backends& backends, const HParams& hp, int64_t tokens) : id_(unique_id()) {
  for (size_t device = 0; device < backends.device_count(); ++device) {
    const auto& run = backends.layer_runs()[device];
    if (run.count() == 0) continue;
    auto& storage =
        *storages_.emplace_back(std::make_unique<Storage>(backends, "the last queries", run.count(), device));
    for (int layer = run.first; layer <= run.last; ++layer)
      layers_.push_back(storage.add(GGML_TYPE_F32, int64_t{hp.d_head} * hp.n_head, tokens));
    storage.allocate(/*clear=*/true);
  }
}

std::vector<float> LastQueries::save() const {
  const auto each = static_cast<size_t>(ggml_nelements(layers_.front()));
  std::vector<float> queries(each * layers_.size());
  for (size_t i = 0; i < layers_.size(); ++i)
    ggml_backend_tensor_get(layers_[i], queries.data() + i * each, 0, ggml_nbytes(layers_[i]));
  return queries;
}

void LastQueries::restore(const std::vector<float>& queries) {
  const auto each = static_cast<size_t>(ggml_nelements(layers_.front()));
  for (size_t i = 0; i < layers_.size(); ++i)
    ggml_backend_tensor_set(layers_[i], queries.data() + i * each, 0, ggml_nbytes(layers_[i]));
}

}  // namespace windowkv
