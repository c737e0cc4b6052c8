#include "policy/run_scores.h"

#include <ggml.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "windowkv/head_scores.h"

namespace windowkv {

namespace {

/// What a score falls to over so many tokens.
float fall(int64_t tokens, int omega) {
  return static_cast<float>(std::exp2(-2.0 * static_cast<double>(tokens) / omega));
}

/// to[j] = the higher of from[j] and the earlier score fallen: apart from each other, so that compilers take
/// several at once.
void raise(const float* __restrict from, float* __restrict to, int64_t tokens, int64_t by, float factor) {
  std::copy_n(from, by, to);
  for (int64_t j = by; j < tokens; ++j) to[j] = std::max(from[j], from[j - by] * factor);
}

/// The token before a run counts half.
void raise_before(const float* __restrict scores, float* __restrict runs, int64_t tokens) {
  for (int64_t j = 0; j + 1 < tokens; ++j) runs[j] = std::max(runs[j], scores[j + 1] * 0.5f);
}

/// dst [tokens, lists] of src[0], the same shape; src[1] holds ω.
void run_scores(ggml_tensor* dst, int ith, int nth, void*) {
  const auto* scores = dst->src[0];
  const int omega = static_cast<int>(*static_cast<const float*>(dst->src[1]->data));
  const int64_t tokens = dst->ne[0];
  std::vector<float> other(static_cast<size_t>(tokens));
  for (int64_t list = ith; list < dst->ne[1]; list += nth) {
    const auto* s = reinterpret_cast<const float*>(static_cast<const char*>(scores->data) +
                                                   static_cast<size_t>(list) * scores->nb[1]);
    auto* runs =
        reinterpret_cast<float*>(static_cast<char*>(dst->data) + static_cast<size_t>(list) * dst->nb[1]);
    const auto* from = s;
    for (int64_t by = 1; by <= omega && by < tokens; by *= 2) {
      auto* to = from == runs ? other.data() : runs;
      raise(from, to, tokens, by, fall(by, omega));
      from = to;
    }
    if (from != runs) std::copy_n(from, tokens, runs);
    raise_before(s, runs, tokens);
  }
}

}  // namespace

ggml_tensor* build_run_scores(ggml_context* ctx, ggml_tensor* scores, int omega, bool on_cpu) {
  if (on_cpu) {
    const auto w = static_cast<float>(omega);
    ggml_tensor* args[] = {scores, ggml_arange(ctx, w, w + 1, 1)};
    return ggml_custom_4d(ctx, GGML_TYPE_F32, scores->ne[0], scores->ne[1], 1, 1, args, 2, run_scores,
                          GGML_N_TASKS_MAX, nullptr);
  }
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
    const float factor = fall(by, omega);
    const int64_t left = runs->ne[0] - by;
    runs = build_max(ctx, part(ggml_scale(ctx, runs, factor), 0, left), part(runs, by, left));
  }
  auto* before = part(ggml_scale(ctx, padded, 0.5f), reach + 1, tokens);
  return build_max(ctx, before, part(runs, 0, tokens));
}

}  // namespace windowkv
