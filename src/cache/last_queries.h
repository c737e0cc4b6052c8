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
  /// Those of tokens [first, first + count).
  ggml_tensor* columns(ggml_context* ctx, int layer, int64_t first, int64_t count) const;
  /// The place of one token gets what `last` has, which is of one.
  void take(const LastQueries& last, int64_t place);
  /// [d_head·n_head, tokens] → [d_head, tokens, n_head], contiguous, as policies take queries.
  static ggml_tensor* by_head(ggml_context* ctx, ggml_tensor* queries, int64_t d_head);
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
