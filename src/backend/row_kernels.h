#pragma once

#include <ggml.h>

#include <cstdint>

#include "backend/logit_scale.h"

namespace windowkv {

/// K or V of one layer as it lies in the host's memory, whatever its layout: rows of d_head elements, one a
/// token and KV head.
struct HostRows {
  ggml_type type = GGML_TYPE_F16;
  const char* data = nullptr;
  size_t row_stride = 0;   ///< bytes from a token's row to the next one's
  size_t head_stride = 0;  ///< bytes from a head's row to the next one's

  /// Of a tensor [d_head, tokens, heads].
  static HostRows of(const ggml_tensor* t) {
    return {t->type, static_cast<const char*>(t->data), t->nb[1], t->nb[2]};
  }

  const char* at(int64_t row, int64_t head) const {
    return data + static_cast<size_t>(row) * row_stride + static_cast<size_t>(head) * head_stride;
  }
};

/// Some of a head's rows: numbers[first .. first + count), or first .. first + count themselves where
/// `numbers` is null.
struct RowRange {
  const int32_t* numbers = nullptr;
  int64_t first = 0;
  int64_t count = 0;
};

/// Whether the functions below take rows of that type and size.
bool row_kernels_take(ggml_type type, int64_t d_head);

/// What attention has summed up so far for one query head.
struct AttentionState {
  float* sum;     ///< [d_head]: V weighted by exp(score − highest)
  float* weight;  ///< sum of the weights
  float* highest;
};

/// Adds the range's rows to the attention of query heads that share a KV head: q [d_head, heads] F32, states
/// [heads]. Begin with sum = weight = 0 and highest = −∞. A row is widened once for all heads, where ggml's
/// fused kernel reads it once for each.
void attend_rows(const HostRows& k, const HostRows& v, int64_t head, RowRange range, const float* q,
                 int heads, int d_head, LogitScale logits, const AttentionState* states);

/// Logits of the range's rows: q [d_head, columns] F32 → out[column · stride + i].
void score_rows(const HostRows& k, int64_t head, RowRange range, const float* q, int columns, int d_head,
                LogitScale logits, float* out, int64_t stride);

/// Each of scores [n] becomes e^(score − the highest). Returns what turns these into a softmax: 1 over their
/// sum.
float exp_scores(float* scores, int64_t n);

}  // namespace windowkv
