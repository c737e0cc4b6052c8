#include "policy/observed_end.h"

#include <ggml.h>

#include <vector>

#include "backend/causal_attention.h"
#include "backend/row_kernels.h"

namespace windowkv {

namespace {

/// dst [n, n_head]: what src[0] = q [d_head, t, n_head], those of the last t tokens, give to each of src[1],
/// all keys: their sum, or the `most` that one gives. src[2] holds LogitScale, and whether products may be
/// rounded, src[3] LayerView::log_sums, if they are known.
void observe(ggml_tensor* dst, bool most, int ith, int nth) {
  const auto* q = dst->src[0];
  const auto* k = dst->src[1];
  const auto* numbers = static_cast<const float*>(dst->src[2]->data);
  const CausalQueries queries{.q = static_cast<const float*>(q->data),
                              .token_stride = q->nb[1] / sizeof(float),
                              .head_stride = q->nb[2] / sizeof(float),
                              .tokens = q->ne[1],
                              .first = k->ne[1] - q->ne[1],
                              .n_head = static_cast<int>(q->ne[2]),
                              .n_head_kv = static_cast<int>(k->ne[2]),
                              .d_head = static_cast<int>(q->ne[0]),
                              .logits = {numbers[0], numbers[1]},
                              .rounded = numbers[2] != 0};
  LogSums known;
  if (const auto* sums = dst->src[3]; sums != nullptr)
    known = {static_cast<const float*>(sums->data), sums->nb[1] / sizeof(float)};
  observe_causally(queries, HostRows::of(k), known, most, static_cast<float*>(dst->data),
                   dst->nb[1] / sizeof(float), ith, nth);
}

void sum_of_queries(ggml_tensor* dst, int ith, int nth, void*) {
  observe(dst, false, ith, nth);
}

void most_of_queries(ggml_tensor* dst, int ith, int nth, void*) {
  observe(dst, true, ith, nth);
}

}  // namespace

bool observes_end(const LayerView& view) {
  return view.on_cpu && view.after_prompt == 0 && attends_causally() &&
         row_kernels_take(view.k->type, view.k->ne[0]);
}

ggml_tensor* build_observed_end(ggml_context* ctx, const LayerView& view, int64_t keys, Rows rows) {
  auto number = [&](float x) { return ggml_arange(ctx, x, x + 1, 2); };
  const bool rounded = view.wo != nullptr && ggml_is_quantized(view.wo->type);
  auto* numbers = ggml_concat(ctx, number(view.scale), number(view.softcap), 0);
  std::vector<ggml_tensor*> args = {view.q, view.k, ggml_concat(ctx, numbers, number(rounded ? 1 : 0), 0)};
  if (view.log_sums != nullptr) args.push_back(view.log_sums);
  auto* all = ggml_custom_4d(
      ctx, GGML_TYPE_F32, view.k->ne[1], view.q->ne[2], 1, 1, args.data(), static_cast<int>(args.size()),
      rows == Rows::kSum ? sum_of_queries : most_of_queries, GGML_N_TASKS_MAX, nullptr);
  return ggml_cont(ctx, ggml_view_2d(ctx, all, keys, all->ne[1], all->nb[1], 0));
}

}  // namespace windowkv
