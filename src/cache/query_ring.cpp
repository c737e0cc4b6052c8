#include "cache/query_ring.h"

#include "support/unique_id.h"

namespace windowkv {

QueryRing::QueryRing(const Backends& backends, const HParams& hp, int64_t rows)
    : id_(unique_id()), rows_(rows) {
  for (size_t device = 0; device < backends.device_count(); ++device) {
    const auto& run = backends.layer_runs()[device];
    if (run.count() == 0) continue;
    auto& storage = *storages_.emplace_back(
        std::make_unique<Storage>(backends, "the newest queries", run.count(), device));
    for (int layer = run.first; layer <= run.last; ++layer)
      layers_.push_back(storage.add(GGML_TYPE_F32, int64_t{hp.d_head} * hp.n_head, rows));
    storage.allocate(/*clear=*/true);
  }
}

QueryRing::Content QueryRing::save() const {
  Content content{{}, next_};
  const auto each = static_cast<size_t>(ggml_nelements(layers_.front()));
  content.queries.resize(each * layers_.size());
  for (size_t i = 0; i < layers_.size(); ++i)
    ggml_backend_tensor_get(layers_[i], content.queries.data() + i * each, 0, ggml_nbytes(layers_[i]));
  return content;
}

void QueryRing::restore(const Content& content) {
  const auto each = static_cast<size_t>(ggml_nelements(layers_.front()));
  for (size_t i = 0; i < layers_.size(); ++i)
    ggml_backend_tensor_set(layers_[i], content.queries.data() + i * each, 0, ggml_nbytes(layers_[i]));
  next_ = content.next;
}

}  // namespace windowkv
