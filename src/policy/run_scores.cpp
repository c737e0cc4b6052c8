#include "policy/run_scores.h"

#include <ggml.h>

#include <cmath>
#include <cstdint>

#include "policy/head_scores.h"

namespace windowkv {

namespace {

/// t [tokens, lists] moved on by `by` tokens, towards the beginning where negative, and scaled; zeros come
/// in.
ggml_tensor* build_shifted(ggml_context* ctx, ggml_tensor* t, int64_t by, float factor) {
  const int64_t size = std::abs(by);
  const int64_t kept = t->ne[0] - size;
  auto part = [&](int64_t first, int64_t count) {
    return ggml_cont(ctx,
                     ggml_view_2d(ctx, t, count, t->ne[1], t->nb[1], static_cast<size_t>(first) * t->nb[0]));
  };
  auto* zeros = ggml_scale(ctx, part(0, size), 0.0f);
  auto* moved = ggml_scale(ctx, part(by > 0 ? 0 : size, kept), factor);
  return by > 0 ? ggml_concat(ctx, zeros, moved, 0) : ggml_concat(ctx, moved, zeros, 0);
}

}  // namespace

ggml_tensor* build_run_scores(ggml_context* ctx, ggml_tensor* scores, int omega) {
  const int64_t tokens = scores->ne[0];
  auto* runs = scores;
  // Twice the reach with every step: the maximum of geometric falls is one.
  for (int64_t by = 1; by <= omega && by < tokens; by *= 2) {
    const auto factor = static_cast<float>(std::exp2(-2.0 * static_cast<double>(by) / omega));
    runs = build_max(ctx, runs, build_shifted(ctx, runs, by, factor));
  }
  return tokens > 1 ? build_max(ctx, runs, build_shifted(ctx, scores, -1, 0.5f)) : runs;
}

}  // namespace windowkv
