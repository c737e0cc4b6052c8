#pragma once

#include <cstdint>

struct ggml_context;
struct ggml_tensor;

namespace windowkv {

/// The most scores in a row: float32 tells twice as many numbers and their sums apart.
constexpr int64_t kMostScores = int64_t{1} << 22;

/// Adds the choice of the `keep` highest of each row of `scores` [w, rows] F32, 0 < keep < w, w up to
/// kMostScores, to the graph; equal scores: the earlier one wins. Returns [keep, rows] I32 numbers within the
/// row, in any order. Throws Error for more scores; the engine refuses such prompts before any work.
/// `on_cpu`: LayerView::on_cpu.
ggml_tensor* build_top_scores(ggml_context* ctx, ggml_tensor* scores, int64_t keep, bool on_cpu = false);

/// `scores` [w, rows] F32, those of the `count` tokens with the highest `ranks` [w, rows] in each row raised
/// above all others, 0 ≤ count < w.
ggml_tensor* build_raised(ggml_context* ctx, ggml_tensor* scores, ggml_tensor* ranks, int64_t count);

}  // namespace windowkv
