#include "policy/value_norms.h"

#include <ggml.h>

#include <algorithm>

#include "backend/graph.h"

namespace windowkv {

namespace {

// Tokens projected at once, or more so that there are not too many parts for the graph.
constexpr int64_t kPart = 4096;
constexpr int64_t kMostParts = 8;

/// The output projection with a query head's part in each row: [n_head·d_head, n_embd] F32. Weights may lie
/// in a form that can only be multiplied, hence the product with the identity.
ggml_tensor* build_plain_projection(ggml_context* ctx, ggml_tensor* wo) {
  auto* ones = ggml_repeat_4d(ctx, ggml_arange(ctx, 1.0f, 2.0f, 1.0f), wo->ne[0], 1, 1, 1);
  return ggml_cont(ctx, ggml_transpose(ctx, ggml_mul_mat(ctx, wo, ggml_diag(ctx, ones))));
}

}  // namespace

ggml_tensor* build_value_norms(ggml_context* ctx, const LayerView& view, int64_t keys) {
  auto* wo = build_plain_projection(ctx, view.wo);
  const int64_t d = view.v->ne[0];
  const int64_t heads = view.v->ne[2];
  const int64_t share = wo->ne[0] / d / heads;
  ggml_tensor* all = nullptr;
  for (int64_t h = 0; h < heads; ++h) {
    ggml_tensor* norms = nullptr;
    const int64_t most = std::max(kPart, (keys + kMostParts - 1) / kMostParts);
    for (int64_t first = 0; first < keys; first += most) {
      const int64_t count = std::min(most, keys - first);
      auto* v = build_widened(
          ctx,
          ggml_view_2d(ctx, view.v, d, count, view.v->nb[1],
                       static_cast<size_t>(h) * view.v->nb[2] + static_cast<size_t>(first) * view.v->nb[1]),
          build_numbers(ctx, count));
      ggml_tensor* sum = nullptr;
      for (int64_t i = 0; i < share; ++i) {
        auto* part =
            ggml_view_2d(ctx, wo, d, wo->ne[1], wo->nb[1], ggml_row_size(wo->type, (h * share + i) * d));
        auto* norm = ggml_sum_rows(ctx, ggml_abs(ctx, ggml_mul_mat(ctx, part, v)));
        sum = sum != nullptr ? ggml_add(ctx, sum, norm) : norm;
      }
      sum = ggml_reshape_1d(ctx, sum, count);
      norms = norms != nullptr ? ggml_concat(ctx, norms, sum, 0) : sum;
    }
    norms = ggml_scale(ctx, norms, 1.0f / static_cast<float>(share));
    all = all != nullptr ? ggml_concat(ctx, all, norms, 1) : norms;
  }
  return all;
}

}  // namespace windowkv
