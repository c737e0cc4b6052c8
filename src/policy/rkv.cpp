// R-KV (Cai et al., arXiv 2505.24133): per KV head, tokens that the last queries attend to and whose keys are
// unlike later ones. Constants are those of the authors' code (github.com/Zefan-Cai/R-KV), whose weight of
// attention is 0.07, where the paper's is 0.1.
#include <ggml.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "policy/observed_attention.h"
#include "policy/policies.h"
#include "windowkv/error.h"
#include "windowkv/head_scores.h"
#include "windowkv/token_selector.h"

namespace windowkv {

namespace {

constexpr int64_t kWindow = 8;
constexpr int kKernel = 7;
constexpr float kAttentionWeight = 0.07f;
constexpr float kAlike = 0.5f;  // cosine of keys

/// Attention of the last queries [keys, n_head_kv]: softmax, over the candidates alone, of the highest score
/// that a query head of the KV head has; the mean over queries, pooled.
ggml_tensor* build_attention_scores(ggml_context* ctx, const LayerView& view, int64_t keys) {
  const int64_t heads_kv = view.k->ne[2];
  const int64_t share = view.q->ne[2] / heads_kv;
  const int64_t queries = view.q->ne[1];
  auto* k = ggml_view_3d(ctx, view.k, view.k->ne[0], keys, heads_kv, view.k->nb[1], view.k->nb[2], 0);
  auto* products = build_products(ctx, view.q, ggml_cast(ctx, k, GGML_TYPE_F32));  // [keys, queries, n_head]
  ggml_tensor* all = nullptr;
  for (int64_t head = 0; head < heads_kv; ++head) {
    // Query heads where build_max_over_queries has queries.
    auto* own = ggml_view_3d(ctx, products, keys, share, queries, products->nb[2], products->nb[1],
                             static_cast<size_t>(head * share) * products->nb[2]);
    auto* most = build_max_over_queries(ctx, own);  // [keys, 1, queries]
    auto* attention = ggml_soft_max_ext(ctx, most, nullptr, view.scale, 0.0f);
    auto* sum = build_sum_over_queries(ctx, ggml_reshape_3d(ctx, attention, keys, queries, 1));
    all = all != nullptr ? ggml_concat(ctx, all, sum, 1) : sum;
  }
  all = ggml_scale(ctx, all, 1.0f / static_cast<float>(queries));
  return ggml_pool_1d(ctx, all, GGML_OP_POOL_MAX, kKernel, 1, kKernel / 2);
}

float product(const float* a, const float* b, int64_t d) {
  constexpr int64_t kLanes = 16;  // that compilers vectorize
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  for (; i < d; ++i) sum += a[i] * b[i];
  return sum;
}

/// dst [d, n, heads] F32: keys of any type, each divided by its length.
void unit_keys(ggml_tensor* dst, int ith, int nth, void*) {
  const auto* k = dst->src[0];
  const int64_t d = dst->ne[0], n = dst->ne[1];
  const auto widen = ggml_get_type_traits(k->type)->to_float;
  for (int64_t row = ith; row < n * dst->ne[2]; row += nth) {
    const auto* from = static_cast<const char*>(k->data) + static_cast<size_t>(row % n) * k->nb[1] +
                       static_cast<size_t>(row / n) * k->nb[2];
    auto* to = static_cast<float*>(dst->data) + row * d;
    if (widen != nullptr)
      widen(from, to, d);
    else
      std::memcpy(to, from, static_cast<size_t>(d) * sizeof(float));
    const float length = std::sqrt(product(to, to, d)) + 1e-8f;
    for (int64_t i = 0; i < d; ++i) to[i] /= length;
  }
}

/// dst [2, n, heads] F32 of unit keys: for each key the last other one that is like it, or the first where
/// none is, and their cosine, 0 for itself.
void last_alike(ggml_tensor* dst, int ith, int nth, void*) {
  const auto* keys = dst->src[0];
  const int64_t d = keys->ne[0], n = keys->ne[1];
  for (int64_t row = ith; row < n * keys->ne[2]; row += nth) {
    const auto* head = static_cast<const float*>(keys->data) + row / n * n * d;
    const int64_t own = row % n;
    int64_t like = n - 1;
    float cosine = 0;
    for (; like >= 0; --like)
      if (like != own && (cosine = product(head + own * d, head + like * d, d)) > kAlike) break;
    if (like < 0) {
      like = 0;
      cosine = own == 0 ? 0.0f : product(head + own * d, head, d);
    }
    auto* out = static_cast<float*>(dst->data) + 2 * row;
    out[0] = static_cast<float>(like);
    out[1] = cosine;
  }
}

/// dst [keys, heads] of unit keys and last_alike: softmax over all n keys of the mean cosine with the others,
/// where the last one that is like another does not count with that.
void redundancy(ggml_tensor* dst, int ith, int nth, void*) {
  const auto *keys = dst->src[0], *alike = dst->src[1];
  const int64_t d = keys->ne[0], n = keys->ne[1];
  for (int64_t head = ith; head < keys->ne[2]; head += nth) {
    const auto* k = static_cast<const float*>(keys->data) + head * n * d;
    const auto* pairs = static_cast<const float*>(alike->data) + head * 2 * n;
    std::vector<float> sum(static_cast<size_t>(d), 0.0f);
    for (int64_t i = 0; i < n * d; ++i) sum[static_cast<size_t>(i % d)] += k[i];
    std::vector<float> mean(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i)
      mean[static_cast<size_t>(i)] = product(k + i * d, sum.data(), d) - product(k + i * d, k + i * d, d);
    for (int64_t i = 0; i < n; ++i) mean[static_cast<size_t>(pairs[2 * i])] -= pairs[2 * i + 1];
    for (float& m : mean) m /= static_cast<float>(n);
    const float most = *std::ranges::max_element(mean);
    double all = 0;
    for (float& m : mean) all += m = std::exp(m - most);
    auto* out = static_cast<float*>(dst->data) + head * dst->ne[0];
    for (int64_t i = 0; i < dst->ne[0]; ++i) out[i] = static_cast<float>(mean[static_cast<size_t>(i)] / all);
  }
}

ggml_tensor* build_redundancy(ggml_context* ctx, const LayerView& view, int64_t keys) {
  if (!view.on_cpu)
    throw Error("r-kv compares keys on the CPU alone; use another policy where other devices compute");
  const auto* k = view.k;
  auto* source = view.k;
  auto* unit = ggml_custom_4d(ctx, GGML_TYPE_F32, k->ne[0], k->ne[1], k->ne[2], 1, &source, 1, unit_keys,
                              GGML_N_TASKS_MAX, nullptr);
  auto* alike = ggml_custom_4d(ctx, GGML_TYPE_F32, 2, k->ne[1], k->ne[2], 1, &unit, 1, last_alike,
                               GGML_N_TASKS_MAX, nullptr);
  ggml_tensor* args[] = {unit, alike};
  return ggml_custom_4d(ctx, GGML_TYPE_F32, keys, k->ne[2], 1, 1, args, 2, redundancy, GGML_N_TASKS_MAX,
                        nullptr);
}

}  // namespace

std::unique_ptr<Policy> make_rkv(const PolicyOptions& options) {
  return make_token_policy({.name = "r-kv",
                            .budget = options.budget,
                            .recent = kWindow,
                            .observation = kWindow,
                            .against_recall = "compares all tokens with each other, which takes too long",
                            .scores = [](ggml_context* ctx, const LayerView& view, int64_t keys) {
                              auto* attention = build_attention_scores(ctx, view, keys);
                              return ggml_sub(
                                  ctx, ggml_scale(ctx, attention, kAttentionWeight),
                                  ggml_scale(ctx, build_redundancy(ctx, view, keys), 1 - kAttentionWeight));
                            }});
}

}  // namespace windowkv
