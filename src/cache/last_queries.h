#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/graph.h"
#include "windowkv/model.h"

namespace windowkv {

/// The queries of a sequence's last token, or of several, in every layer: [d_head·n_head, tokens] F32, RoPE
/// applied, on the device of the layer.
class LastQueries {
 public:
  /// Throws Error where the memory is not to be had.
  LastQueries(const Backends& backends, const HParams& hp, int64_t tokens = 1);

  ggml_tensor* of(int layer) const { return layers_[static_cast<size_t>(layer)]; }
  /// Never the same for two of them.
  uint64_t id() const { return id_; }

  /// All layers', to return to.
  std::vector<float> save() const;
  void restore(const std::vector<float>& queries);

 private:
  uint64_t id_;
  std::vector<std::unique_ptr<Storage>> storages_;  ///< by device that holds layers
  std::vector<ggml_tensor*> layers_;
};

}  // namespace windowkv
