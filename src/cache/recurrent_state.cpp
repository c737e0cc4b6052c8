#include "cache/recurrent_state.h"

#include "support/unique_id.h"

namespace windowkv {

RecurrentState::RecurrentState(const Backends& backends, const HParams& hp)
    : now_(static_cast<size_t>(hp.n_layer)),
      at_prompt_(now_.size()),
      bytes_(2 * hp.state_bytes()),
      id_(unique_id()) {
  const auto& net = hp.delta_net;
  for (size_t device = 0; device < backends.device_count(); ++device) {
    const auto& run = backends.layer_runs()[device];
    auto storage =
        std::make_unique<Storage>(backends, "the recurrent layers' state", 4 * run.count(), device);
    bool any = false;
    for (int layer = run.first; layer <= run.last; ++layer) {
      if (!hp.recurrent(layer)) continue;
      any = true;
      for (auto* layers : {&now_, &at_prompt_})
        (*layers)[static_cast<size_t>(layer)] = {
            storage->add(GGML_TYPE_F32, net.kernel - 1, net.channels()),
            storage->add(GGML_TYPE_F32, int64_t{net.d_head} * net.d_head, net.heads)};
    }
    if (!any) continue;
    storage->allocate(/*clear=*/true);
    storages_.push_back(std::move(storage));
  }
}

void RecurrentState::copy(const Layer& from, const Layer& to) {
  if (from.inputs == nullptr) return;
  ggml_backend_tensor_copy(from.inputs, to.inputs);
  ggml_backend_tensor_copy(from.matrices, to.matrices);
}

void RecurrentState::end_prompt(int layer) {
  copy(now_[static_cast<size_t>(layer)], at_prompt_[static_cast<size_t>(layer)]);
}

void RecurrentState::rewind(int layer) {
  copy(at_prompt_[static_cast<size_t>(layer)], now_[static_cast<size_t>(layer)]);
}

void RecurrentState::copy(int layer, const RecurrentState& from) {
  const auto i = static_cast<size_t>(layer);
  copy(from.now_[i], now_[i]);
  copy(from.at_prompt_[i], at_prompt_[i]);
}

}  // namespace windowkv
