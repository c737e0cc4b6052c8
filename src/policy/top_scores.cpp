#include "policy/top_scores.h"

#include <fmt/format.h>
#include <ggml.h>

#include "windowkv/error.h"

namespace windowkv {

ggml_tensor* build_top_scores(ggml_context* ctx, ggml_tensor* scores, int64_t keep) {
  // ggml leaves open which of equal values are among the highest, so ties are settled here: everything above
  // the keep-th score, then of those equal to it the earliest.
  const int64_t w = scores->ne[0];
  const int64_t rows = scores->ne[1];
  if (w > kMostScores) throw Error(fmt::format("{} scores; a policy can choose among {}", w, kMostScores));
  auto values = [&](ggml_tensor* of, ggml_tensor* at) {
    auto* found = ggml_get_rows(ctx, ggml_reshape_3d(ctx, of, 1, of->ne[0], rows), at);
    return ggml_reshape_2d(ctx, found, at->ne[0], rows);
  };
  auto* highest = values(scores, ggml_top_k(ctx, scores, static_cast<int>(keep)));
  auto* threshold = values(highest, ggml_top_k(ctx, ggml_neg(ctx, highest), 1));
  auto* difference = ggml_sub(ctx, scores, threshold);
  auto* above = ggml_step(ctx, difference);
  auto* below = ggml_step(ctx, ggml_neg(ctx, difference));
  auto* equal = ggml_scale_bias(ctx, ggml_add(ctx, above, below), -1.0f, 1.0f);
  auto* room = ggml_scale_bias(ctx, ggml_sum_rows(ctx, above), -1.0f, static_cast<float>(keep));
  auto* beyond =
      ggml_sub(ctx, ggml_cumsum(ctx, equal), room);  // > 0 past the last equal one there is room for
  auto* early = ggml_step(ctx, ggml_scale_bias(ctx, beyond, -1.0f, 0.5f));
  auto* chosen = ggml_add(ctx, above, ggml_mul(ctx, equal, early));
  // Distinct keys, exact in float32 for kMostScores: the chosen above all others.
  auto* number = ggml_arange(ctx, 0.0f, static_cast<float>(w), 1.0f);
  auto* key = ggml_sub(ctx, ggml_scale(ctx, chosen, 2.0f * static_cast<float>(w)), number);
  return ggml_top_k(ctx, key, static_cast<int>(keep));
}

}  // namespace windowkv
