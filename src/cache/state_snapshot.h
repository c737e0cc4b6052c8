#pragma once

#include <ggml-cpp.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "cache/recurrent_state.h"
#include "support/host_memory.h"
#include "windowkv/model.h"

namespace windowkv {

/// What the recurrent layers of a model hold after the first tokens of a text, in host memory. Filled once,
/// layer by layer, then never changed. Of each layer inputs, then matrices, each from a multiple of
/// kAlignment on.
class StateSnapshot {
 public:
  static constexpr size_t kAlignment = 64;

  /// In memory of bytes(hp) from `offset` on, a multiple of kAlignment.
  StateSnapshot(const HParams& hp, std::shared_ptr<const HostMemory> memory, size_t offset = 0);

  /// 0 of a model without recurrent layers.
  static size_t bytes(const HParams& hp);

  /// Without tensors where the layer is not recurrent.
  const RecurrentState::Layer& layer(int index) const { return layers_[static_cast<size_t>(index)]; }
  /// What it lies in, perhaps with more.
  const std::shared_ptr<const HostMemory>& memory() const { return memory_; }
  /// bytes(hp) of it.
  const uint8_t* data() const { return data_; }

 private:
  std::shared_ptr<const HostMemory> memory_;
  uint8_t* data_;
  ggml_backend_buffer_ptr buffer_;  // of memory_
  ggml_context_ptr ctx_;
  std::vector<RecurrentState::Layer> layers_;
};

}  // namespace windowkv
