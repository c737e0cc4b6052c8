#pragma once

#include <cstddef>
#include <cstdint>

namespace windowkv {

// Logits of `count` Q8_0 rows of d_head elements, `stride` bytes apart, by products of whole numbers: q
// [d_head, columns] F32 → out[column · out_stride + i]. On x86 alone.
#define Q8_SCORE_PARAMETERS                                                                             \
  const char *rows, size_t stride, int64_t count, const float *q, int columns, int d_head, float scale, \
      float *out, int64_t out_stride

/// By products of bytes, for AVX-512 VNNI: queries are rounded to 8 bits in blocks of 32, as ggml's own
/// kernels round them for such rows.
void score_q8_by_bytes(Q8_SCORE_PARAMETERS);

/// By products of 16 bits, for AVX2: queries are rounded to 16 bits.
void score_q8_by_words(Q8_SCORE_PARAMETERS);

}  // namespace windowkv
