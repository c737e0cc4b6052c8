#include "policy/pair_lengths.h"

#include <ggml.h>

namespace windowkv {

ggml_tensor* build_pair_lengths(ggml_context* ctx, ggml_tensor* x, RopePairs pairs) {
  const int64_t half = pairs.dims / 2;
  auto* squares = ggml_sqr(ctx, x);
  auto part = [&](int64_t first, int64_t count) {
    return ggml_cont(ctx, ggml_view_3d(ctx, squares, count, x->ne[1], x->ne[2], x->nb[1], x->nb[2],
                                       static_cast<size_t>(first) * x->nb[0]));
  };
  ggml_tensor* sums = nullptr;
  if (half > 0 && pairs.interleaved) {
    auto* both = ggml_reshape_4d(ctx, part(0, 2 * half), 2, half, x->ne[1], x->ne[2]);
    sums = ggml_reshape_3d(ctx, ggml_sum_rows(ctx, both), half, x->ne[1], x->ne[2]);
  } else if (half > 0) {
    sums = ggml_add(ctx, part(0, half), part(half, half));
  }
  if (const int64_t rest = x->ne[0] - 2 * half; rest > 0) {
    auto* alone = part(2 * half, rest);
    sums = sums != nullptr ? ggml_concat(ctx, sums, alone, 0) : alone;
  }
  return ggml_sqrt(ctx, sums);
}

}  // namespace windowkv
