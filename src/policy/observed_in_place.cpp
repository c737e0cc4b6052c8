#include "policy/observed_in_place.h"

#include <ggml.h>

#include <algorithm>
#include <vector>

#include "backend/row_kernels.h"

namespace windowkv {

namespace {

// Keys that a thread scores at once.
constexpr int64_t kPart = 512;

/// dst [keys, t · share, heads] of src[0] = q [d_head, t, share · heads], src[1], and where there
/// are four src[2]: keys [d_head, ., heads]; the last holds LogitScale.
void score_keys(ggml_tensor* dst, int ith, int nth, void*) {
  const auto* q = dst->src[0];
  const auto* numbers = static_cast<const float*>(dst->src[dst->src[3] != nullptr ? 3 : 2]->data);
  const LogitScale logits{numbers[0], numbers[1]};
  const int64_t d = q->ne[0];
  const int64_t columns = dst->ne[1];
  const int64_t parts = (dst->ne[0] + kPart - 1) / kPart;
  for (int64_t unit = ith; unit < parts * dst->ne[2]; unit += nth) {
    const int64_t head = unit / parts;
    int64_t first = unit % parts * kPart;
    int64_t last = std::min(dst->ne[0], first + kPart);
    const auto* queries = reinterpret_cast<const float*>(
        static_cast<const char*>(q->data) + static_cast<size_t>(head * columns / q->ne[1]) * q->nb[2]);
    auto* out =
        reinterpret_cast<float*>(static_cast<char*>(dst->data) + static_cast<size_t>(head) * dst->nb[2]) +
        first;
    for (const auto* k : {dst->src[1], dst->src[3] != nullptr ? dst->src[2] : nullptr}) {
      if (k == nullptr) continue;
      const int64_t from = std::clamp<int64_t>(first, 0, k->ne[1]);
      const int64_t to = std::clamp<int64_t>(last, 0, k->ne[1]);
      if (from < to)
        score_rows(HostRows::of(k), head, {nullptr, from, to - from}, queries, static_cast<int>(columns),
                   static_cast<int>(d), logits, out, static_cast<int64_t>(dst->nb[1] / sizeof(float)));
      out += to - from;
      first -= k->ne[1];
      last -= k->ne[1];
    }
  }
}

/// dst [keys, query heads] of src[0] = scores, whose rows become weights on the way; as many rows a head as
/// `t`. `most`: the most that one row gives, instead of their sum.
void sum_weights(ggml_tensor* dst, int ith, int nth, bool most) {
  const auto* scores = dst->src[0];
  const int64_t n = scores->ne[0];
  const int64_t t = ggml_nrows(scores) / dst->ne[1];
  for (int64_t head = ith; head < dst->ne[1]; head += nth) {
    auto* out =
        reinterpret_cast<float*>(static_cast<char*>(dst->data) + static_cast<size_t>(head) * dst->nb[1]);
    std::fill_n(out, dst->ne[0], 0.0f);
    for (int64_t row = 0; row < t; ++row) {
      auto* weights = static_cast<float*>(scores->data) + (head * t + row) * n;
      const float factor = exp_scores(weights, n);
      for (int64_t i = 0; i < dst->ne[0]; ++i) {
        const float weight = weights[i] * factor;
        out[i] = most ? std::max(out[i], weight) : out[i] + weight;
      }
    }
  }
}

void sum_over_rows(ggml_tensor* dst, int ith, int nth, void*) {
  sum_weights(dst, ith, nth, false);
}

void most_over_rows(ggml_tensor* dst, int ith, int nth, void*) {
  sum_weights(dst, ith, nth, true);
}

/// dst [rows] of src[0] = scores [n, rows], which become exponentials: what turns these into weights.
void exp_rows(ggml_tensor* dst, int ith, int nth, void*) {
  const auto* scores = dst->src[0];
  for (int64_t row = ith; row < dst->ne[0]; row += nth)
    static_cast<float*>(dst->data)[row] =
        exp_scores(static_cast<float*>(scores->data) + row * scores->ne[0], scores->ne[0]);
}

/// dst [count, lists]: the mean over a list's rows of the weights of some keys, of src[0] = exponentials [n,
/// share, lists] and src[1], what turns them into weights; src[2] holds the first key.
void mean_of_rows(ggml_tensor* dst, int ith, int nth, void*) {
  const auto* scores = dst->src[0];
  const auto* factors = static_cast<const float*>(dst->src[1]->data);
  const auto skipped = static_cast<int64_t>(*static_cast<const float*>(dst->src[2]->data));
  const int64_t share = scores->ne[1];
  const int64_t parts = (dst->ne[0] + kPart - 1) / kPart;
  for (int64_t unit = ith; unit < parts * dst->ne[1]; unit += nth) {
    const int64_t list = unit / parts;
    const int64_t first = unit % parts * kPart;
    const int64_t count = std::min(kPart, dst->ne[0] - first);
    float sums[kPart] = {};
    for (int64_t row = list * share; row < (list + 1) * share; ++row) {
      const auto* weights = static_cast<const float*>(scores->data) + row * scores->ne[0] + skipped + first;
      for (int64_t i = 0; i < count; ++i) sums[i] += weights[i] * factors[row];
    }
    auto* out = static_cast<float*>(dst->data) + list * dst->ne[0] + first;
    for (int64_t i = 0; i < count; ++i) out[i] = sums[i] / static_cast<float>(share);
  }
}

/// Scores [keys, t · share, n_head_kv] of all keys.
ggml_tensor* build_scores(ggml_context* ctx, const LayerView& view) {
  const int64_t n_head_kv = view.k->ne[2];
  int64_t n = view.k->ne[1];
  std::vector<ggml_tensor*> args = {view.q, view.k};
  if (view.k_after != nullptr) {
    args.push_back(view.k_after);
    n += view.k_after->ne[1];
  }
  auto number = [&](float x) { return ggml_arange(ctx, x, x + 1, 2); };
  args.push_back(ggml_concat(ctx, number(view.scale), number(view.softcap), 0));
  return ggml_custom_4d(ctx, GGML_TYPE_F32, n, view.q->ne[1] * (view.q->ne[2] / n_head_kv), n_head_kv, 1,
                        args.data(), static_cast<int>(args.size()), score_keys, GGML_N_TASKS_MAX, nullptr);
}

}  // namespace

bool reads_in_place(const LayerView& view) {
  return view.on_cpu && view.after_prompt == view.q->ne[1] && row_kernels_take(view.k->type, view.k->ne[0]) &&
         (view.k_after == nullptr || row_kernels_take(view.k_after->type, view.k_after->ne[0]));
}

ggml_tensor* build_observed_in_place(ggml_context* ctx, const LayerView& view, int64_t keys, Rows rows) {
  auto* scores = build_scores(ctx, view);
  return ggml_custom_4d(ctx, GGML_TYPE_F32, keys, view.q->ne[2], 1, 1, &scores, 1,
                        rows == Rows::kSum ? sum_over_rows : most_over_rows, GGML_N_TASKS_MAX, nullptr);
}

bool means_in_place(const LayerView& view) {
  return reads_in_place(view) && view.q->ne[1] == 1;
}

ggml_tensor* build_mean_in_place(ggml_context* ctx, const LayerView& view, int64_t first, int64_t count) {
  const int64_t n_head_kv = view.k->ne[2];
  auto* scores = build_scores(ctx, view);
  auto* factors = ggml_custom_4d(ctx, GGML_TYPE_F32, view.q->ne[2], 1, 1, 1, &scores, 1, exp_rows,
                                 GGML_N_TASKS_MAX, nullptr);
  const auto skipped = static_cast<float>(first);
  ggml_tensor* args[] = {scores, factors, ggml_arange(ctx, skipped, skipped + 1, 2)};
  return ggml_custom_4d(ctx, GGML_TYPE_F32, count, n_head_kv, 1, 1, args, 3, mean_of_rows, GGML_N_TASKS_MAX,
                        nullptr);
}

}  // namespace windowkv
