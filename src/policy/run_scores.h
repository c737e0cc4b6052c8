#pragma once

struct ggml_context;
struct ggml_tensor;

namespace windowkv {

/// Scores of free windows. An answer that is copied from the prompt runs on from where the prompt's end
/// attends to, so a token passes its score on to those after it, half as much every ω/2 tokens, and half of
/// it to the one before:
///
///   s'_j = max( s_{j−d} · 2^(−2d/ω) for 0 ≤ d < 2^(⌊log2 ω⌋+1),  s_{j+1} / 2 )
///
/// The highest s' then are runs of consecutive tokens, the longer the higher the score they start from.
/// scores [tokens, lists] F32, not negative → the same shape. `on_cpu`: LayerView::on_cpu.
ggml_tensor* build_run_scores(ggml_context* ctx, ggml_tensor* scores, int omega, bool on_cpu = false);

}  // namespace windowkv
