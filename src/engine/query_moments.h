#pragma once

#include <span>

#include "model/loaded_model.h"
#include "windowkv/policy.h"

/// What policies that look ahead are told of a layer's queries, LayerView::moments and what stands beside it.
namespace windowkv {

/// Columns of a head's moments.
constexpr int64_t moment_columns(int64_t d_head) {
  return d_head + 2;
}

/// The moments of queries `q` [d_head, n_head, t] F32, RoPE applied, at `positions` [t] I32, without those of
/// the first `skipped` tokens.
ggml_tensor* build_moments(ggml_context* ctx, const LoadedModel& m, int layer, ggml_tensor* q,
                           ggml_tensor* positions, int64_t skipped);

/// Sets rotation, rope_stretch and rope_pairs of a view. `next`: position of the token behind the newest one.
void add_rotation(ggml_context* ctx, const LoadedModel& m, LayerView& view, std::span<const TokenRange> ahead,
                  int64_t next);

}  // namespace windowkv
