#pragma once

#include <ggml-cpp.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "support/host_memory.h"
#include "windowkv/kv_type.h"
#include "windowkv/model.h"

namespace windowkv {

/// K and V of a run of tokens in all layers that have some, RoPE applied to K, in host memory. Filled once,
/// layer by layer, then never changed. A layer's tensors are [d_head, tokens, n_head_kv], so that a head's
/// tokens are one run of bytes; they lie behind each other, K before V, each from a multiple of kAlignment
/// on.
class PrefixBlock {
 public:
  static constexpr size_t kAlignment = 64;

  /// In memory of bytes(hp, types, tokens) from `offset` on, a multiple of kAlignment.
  PrefixBlock(const HParams& hp, KvTypes types, int64_t tokens, HostMemory memory, size_t offset = 0);

  static size_t bytes(const HParams& hp, KvTypes types, int64_t tokens);
  /// Of one layer's K or V, up to where the next tensor begins; without sizes, of a layer that sees all
  /// tokens.
  static size_t tensor_bytes(const HeadSizes& heads, KvType type, int64_t tokens);
  static size_t tensor_bytes(const HParams& hp, KvType type, int64_t tokens) {
    return tensor_bytes({hp.n_head, hp.n_head_kv, hp.d_head}, type, tokens);
  }

  int64_t tokens() const { return tokens_; }
  /// Bytes that it lies in.
  const HostMemory& memory() const { return memory_; }
  ggml_tensor* k(int layer) const { return layers_[static_cast<size_t>(layer)].k; }
  ggml_tensor* v(int layer) const { return layers_[static_cast<size_t>(layer)].v; }

  /// Tokens [first, first + count) of a tensor of a block, [d_head, count, n_head_kv].
  static ggml_tensor* slice(ggml_context* ctx, ggml_tensor* tensor, int64_t first, int64_t count);

 private:
  struct Layer {
    ggml_tensor* k;
    ggml_tensor* v;
  };

  int64_t tokens_;
  HostMemory memory_;
  ggml_backend_buffer_ptr buffer_;  // of memory_
  ggml_context_ptr ctx_;
  std::vector<Layer> layers_;
};

}  // namespace windowkv
