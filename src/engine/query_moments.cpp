#include "engine/query_moments.h"

#include <ggml.h>

#include <algorithm>

#include "backend/graph.h"
#include "policy/pair_lengths.h"

namespace windowkv {

namespace {

RopePairs rope_pairs(const HParams& hp, int layer) {
  const auto spec = hp.attention_of(layer);
  if (!spec.rope) return {};
  return {spec.n_rot > 0 ? spec.n_rot : hp.n_rot, hp.rope_mode == GGML_ROPE_TYPE_NORMAL};
}

}  // namespace

ggml_tensor* build_moments(ggml_context* ctx, const LoadedModel& m, int layer, ggml_tensor* q,
                           ggml_tensor* positions, int64_t skipped) {
  q = m.family->rotate(ctx, m.hp, m.weights, layer, ggml_cont(ctx, q), positions, Family::Rotation::kUndo);
  q = ggml_view_3d(ctx, q, q->ne[0], q->ne[1], q->ne[2] - skipped, q->nb[1], q->nb[2],
                   static_cast<size_t>(skipped) * q->nb[2]);
  q = ggml_cont(ctx, ggml_permute(ctx, q, 0, 2, 1, 3));
  auto* ones = ggml_repeat_4d(ctx, ggml_arange(ctx, 1.0f, 2.0f, 1.0f), 1, q->ne[1], q->ne[2], 1);
  auto* lengths = ggml_out_prod(ctx, build_pair_lengths(ctx, q, rope_pairs(m.hp, layer)), ones);
  lengths = ggml_pad(ctx, lengths, static_cast<int>(q->ne[0] - lengths->ne[0]), 0, 0, 0);
  auto* moments = ggml_concat(ctx, ggml_out_prod(ctx, q, q), ggml_out_prod(ctx, q, ones), 1);
  return ggml_concat(ctx, moments, lengths, 1);
}

void add_rotation(ggml_context* ctx, const LoadedModel& m, LayerView& view, std::span<const TokenRange> ahead,
                  int64_t next) {
  constexpr int64_t kPart = 64;
  const int64_t d = m.hp.d_head;
  auto* units = ggml_diag(ctx, ggml_repeat_4d(ctx, ggml_arange(ctx, 1.0f, 2.0f, 1.0f), d, 1, 1, 1));
  auto rotated = [&](ggml_tensor* x, int64_t first, Family::Rotation rotation) {
    return m.family->rotate(ctx, m.hp, m.weights, view.layer, x, build_numbers(ctx, x->ne[2], 1, first),
                            rotation);
  };
  ggml_tensor* sum = nullptr;
  int64_t all = 0;
  for (const auto& [from, end] : ahead)
    for (int64_t first = from; first < end; first += kPart) {
      const int64_t count = std::min(kPart, end - first);
      auto* part =
          rotated(ggml_repeat_4d(ctx, units, d, d, count, 1), next + first, Family::Rotation::kApply);
      part = ggml_sum_rows(ctx, ggml_cont(ctx, ggml_permute(ctx, part, 1, 2, 0, 3)));
      sum = sum != nullptr ? ggml_add(ctx, sum, part) : part;
      all += count;
    }
  // RoPE may scale, and taking it off scales as often again: what a unit vector becomes tells by how much.
  auto* there = rotated(ggml_reshape_3d(ctx, units, d, d, 1), 0, Family::Rotation::kApply);
  auto* back = ggml_view_1d(ctx, rotated(there, 0, Family::Rotation::kUndo), 1, 0);
  sum = ggml_div(ctx, ggml_reshape_2d(ctx, sum, d, d), back);
  view.rotation = ggml_scale(ctx, sum, 1.0f / static_cast<float>(all));
  view.rope_stretch = ggml_sqrt(ctx, back);
  view.rope_pairs = rope_pairs(m.hp, view.layer);
}

}  // namespace windowkv
