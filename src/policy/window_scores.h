#pragma once

#include "windowkv/policy.h"

namespace windowkv {

/// Adds the scores of one layer's windows on a grid to the graph (arXiv 2503.17922, Eq. 1-3): softmax
/// attention of the observation window over all keys in float32, its rows and heads combined as the settings
/// say (the paper: summed, and the mean), the p largest of each window averaged (fewer in a shorter last
/// window) in between. `review`: tokens before the observation window, n − α. Returns [⌈review/ω⌉] F32 on the
/// device that holds K.
ggml_tensor* build_window_scores(ggml_context* ctx, const LayerView& view, const SelectionConfig& config,
                                 int64_t review);

}  // namespace windowkv
