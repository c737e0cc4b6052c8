#pragma once

#include "windowkv/policy.h"

namespace windowkv {

/// Whether the CPU computes the layer, and its kernel of a prompt's attention what the last queries give.
bool observes_end(const LayerView& view);

/// build_observed_by_head of such a view, whose queries are the prompt's own. Tiles of queries go through
/// blocks of keys, twice where LayerView::log_sums are not known, and no product of both is held.
ggml_tensor* build_observed_end(ggml_context* ctx, const LayerView& view, int64_t keys, Rows rows);

}  // namespace windowkv
