#include "cache/state_snapshot.h"

#include <ggml-backend.h>

#include <utility>

namespace windowkv {

namespace {

size_t inputs_bytes(const DeltaNet& net) {
  return GGML_PAD(static_cast<size_t>((net.kernel - 1) * net.channels()) * sizeof(float),
                  StateSnapshot::kAlignment);
}

size_t matrices_bytes(const DeltaNet& net) {
  return GGML_PAD(static_cast<size_t>(net.d_head) * static_cast<size_t>(net.d_head) *
                      static_cast<size_t>(net.heads) * sizeof(float),
                  StateSnapshot::kAlignment);
}

}  // namespace

size_t StateSnapshot::bytes(const HParams& hp) {
  return static_cast<size_t>(hp.n_recurrent_layers()) *
         (inputs_bytes(hp.delta_net) + matrices_bytes(hp.delta_net));
}

StateSnapshot::StateSnapshot(const HParams& hp, std::shared_ptr<const HostMemory> memory, size_t offset)
    : memory_(std::move(memory)), data_(memory_->data() + offset) {
  buffer_.reset(ggml_backend_cpu_buffer_from_ptr(data_, bytes(hp)));
  ctx_.reset(
      ggml_init({2 * static_cast<size_t>(hp.n_layer) * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
  const auto& net = hp.delta_net;
  auto* next = data_;
  const auto add = [&](int64_t width, int64_t count, size_t bytes) {
    auto* tensor = ggml_new_tensor_2d(ctx_.get(), GGML_TYPE_F32, width, count);
    ggml_backend_tensor_alloc(buffer_.get(), tensor, next);
    next += bytes;
    return tensor;
  };
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    auto& state = layers_.emplace_back();
    if (!hp.recurrent(layer)) continue;
    state.inputs = add(net.kernel - 1, net.channels(), inputs_bytes(net));
    state.matrices = add(int64_t{net.d_head} * net.d_head, net.heads, matrices_bytes(net));
  }
}

}  // namespace windowkv
