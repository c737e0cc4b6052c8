#include "cache/prefix_block.h"

#include <ggml-backend.h>

#include "cache/kv_type.h"

namespace windowkv {

size_t PrefixBlock::tensor_bytes(const HeadSizes& heads, KvType type, int64_t tokens) {
  return GGML_PAD(static_cast<size_t>(tokens * heads.n_head_kv) * ggml_row_size(to_ggml(type), heads.d_head),
                  kAlignment);
}

size_t PrefixBlock::bytes(const HParams& hp, KvTypes types, int64_t tokens) {
  size_t all = 0;
  for (int layer = 0; layer < hp.n_layer; ++layer)
    for (const auto type : {types.k, types.v})
      all += hp.has_rows(layer) ? tensor_bytes(hp.heads(layer), type, tokens) : 0;
  return all;
}

PrefixBlock::PrefixBlock(const HParams& hp, KvTypes types, int64_t tokens, HostMemory memory, size_t offset)
    : tokens_(tokens), memory_(std::move(memory)) {
  auto* next = memory_.data() + offset;
  buffer_.reset(ggml_backend_cpu_buffer_from_ptr(next, bytes(hp, types, tokens)));
  const auto tensors = 2 * static_cast<size_t>(hp.n_layer);
  ctx_.reset(ggml_init({tensors * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
  const auto add = [&](const HeadSizes& heads, KvType type) {
    auto* tensor = ggml_new_tensor_3d(ctx_.get(), to_ggml(type), heads.d_head, tokens, heads.n_head_kv);
    ggml_backend_tensor_alloc(buffer_.get(), tensor, next);
    next += tensor_bytes(heads, type, tokens);
    return tensor;
  };
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    if (!hp.has_rows(layer)) {
      layers_.push_back({nullptr, nullptr});
      continue;
    }
    const auto heads = hp.heads(layer);
    auto* k = add(heads, types.k);
    layers_.push_back({k, add(heads, types.v)});
  }
}

ggml_tensor* PrefixBlock::slice(ggml_context* ctx, ggml_tensor* tensor, int64_t first, int64_t count) {
  return ggml_view_3d(ctx, tensor, tensor->ne[0], count, tensor->ne[2], tensor->nb[1], tensor->nb[2],
                      static_cast<size_t>(first) * tensor->nb[1]);
}

}  // namespace windowkv
