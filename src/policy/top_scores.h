#pragma once

#include <cstdint>

struct ggml_context;
struct ggml_tensor;

namespace windowkv {

/// Adds the choice of the `keep` highest of each row of `scores` [w, rows] F32, 0 < keep < w, w up to 2^22,
/// to the graph; equal scores: the earlier one wins. Returns [keep, rows] I32 numbers within the row, in any
/// order.
ggml_tensor* build_top_scores(ggml_context* ctx, ggml_tensor* scores, int64_t keep);

}  // namespace windowkv
