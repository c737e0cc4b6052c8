#pragma once

#include "windowkv/policy.h"

namespace windowkv {

/// Lengths of the pairs that RoPE rotates in each of `x` [d_head, n, heads] F32, contiguous, which it leaves
/// as they are; then those of the dimensions that it does not rotate, each by itself: [d_head - dims / 2, n,
/// heads].
ggml_tensor* build_pair_lengths(ggml_context* ctx, ggml_tensor* x, RopePairs pairs);

}  // namespace windowkv
