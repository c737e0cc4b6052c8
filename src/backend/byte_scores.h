#pragma once

#include <cstddef>
#include <cstdint>

namespace windowkv {

/// Logits of `count` Q8_0 rows of d_head elements, `stride` bytes apart, by products of bytes: q [d_head,
/// columns] F32 → out[column · out_stride + i]. Queries are rounded to 8 bits in blocks of 32, as ggml's own
/// kernels round them for such rows.
using ScoreBytes = void (*)(const char* rows, size_t stride, int64_t count, const float* q, int columns,
                            int d_head, float scale, float* out, int64_t out_stride);

/// The one that this processor has instructions for; null where it has none.
ScoreBytes byte_scores();

}  // namespace windowkv
