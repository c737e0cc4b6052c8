#include "policy/run_scores.h"

#include <ggml.h>

#include <cmath>
#include <cstdint>

#include "windowkv/head_scores.h"

namespace windowkv {

ggml_tensor* build_run_scores(ggml_context* ctx, ggml_tensor* scores, int omega) {
  const int64_t tokens = scores->ne[0];
  int64_t reach =
      0;  // of all steps, each twice that of the one before: the maximum of geometric falls is one
  int64_t steps = 0;
  for (int64_t by = 1; by <= omega && by < tokens; by *= 2, ++steps) reach += by;
  // Zeros at both ends once, which the steps use up.
  auto* padded = ggml_pad_ext(ctx, scores, static_cast<int>(reach), 1, 0, 0, 0, 0, 0, 0);
  auto part = [&](ggml_tensor* t, int64_t first, int64_t count) {
    return ggml_view_2d(ctx, t, count, t->ne[1], t->nb[1], static_cast<size_t>(first) * t->nb[0]);
  };
  auto* runs = padded;
  for (int64_t by = 1; steps > 0; by *= 2, --steps) {
    const auto factor = static_cast<float>(std::exp2(-2.0 * static_cast<double>(by) / omega));
    const int64_t left = runs->ne[0] - by;
    runs = build_max(ctx, part(ggml_scale(ctx, runs, factor), 0, left), part(runs, by, left));
  }
  auto* before = part(ggml_scale(ctx, padded, 0.5f), reach + 1, tokens);
  return build_max(ctx, before, part(runs, 0, tokens));
}

}  // namespace windowkv
