#pragma once

#include "windowkv/policy.h"

namespace windowkv {

/// What a token's value can change at most: ‖W_O·v‖₁ (CriticalKV, arXiv 2502.03805, section 3), the mean over
/// the query heads that share a KV head, each with its own part of the output projection. [keys, n_head_kv]
/// F32, of the layer's first `keys` tokens.
ggml_tensor* build_value_norms(ggml_context* ctx, const LayerView& view, int64_t keys);

}  // namespace windowkv
