#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/graph.h"
#include "windowkv/model.h"

namespace windowkv {

/// What a sequence's recurrent layers (HParams::recurrent) hold of all tokens so far, beside the rows of the
/// other layers: as much for a short text as for a long one. And what they held at the end of the prompt,
/// since no token can be taken back out.
class RecurrentState {
 public:
  /// Of no tokens: all 0. Throws Error where there is no memory.
  RecurrentState(const Backends& backends, const HParams& hp);
  RecurrentState(const RecurrentState&) = delete;
  RecurrentState& operator=(const RecurrentState&) = delete;

  struct Layer {
    ggml_tensor* inputs = nullptr;    ///< [kernel − 1, channels] F32, the convolution's last ones
    ggml_tensor* matrices = nullptr;  ///< [d_head·d_head, heads] F32
  };
  /// As of now; without tensors where the layer is not recurrent.
  const Layer& layer(int index) const { return now_[static_cast<size_t>(index)]; }

  /// The layer begins with what is there, instead of with no tokens; or that becomes a copy of it as it is
  /// now.
  void start(int layer, const Layer& from) { copy(from, now_[static_cast<size_t>(layer)]); }
  void take(int layer, const Layer& to) const { copy(now_[static_cast<size_t>(layer)], to); }
  /// The prompt has passed this layer.
  void end_prompt(int layer);
  /// Back to the prompt's end.
  void rewind(int layer);
  /// The layer becomes a copy, of both.
  void copy(int layer, const RecurrentState& from);

  /// That it takes: both.
  int64_t bytes() const { return bytes_; }
  /// Never the same for two of them.
  uint64_t id() const { return id_; }

 private:
  static void copy(const Layer& from, const Layer& to);

  std::vector<std::unique_ptr<Storage>> storages_;  ///< by device
  std::vector<Layer> now_;
  std::vector<Layer> at_prompt_;
  int64_t bytes_;
  uint64_t id_;
};

}  // namespace windowkv
