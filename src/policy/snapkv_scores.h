#pragma once

#include "windowkv/token_selector.h"

namespace windowkv {

/// Observation window, and the kernel and kind of pooling, of the paper's LongBench runs (max pooling of 7).
inline constexpr int64_t kSnapKvObservation = 32;
inline constexpr int kSnapKvKernel = 7;

/// SnapKV's scoring (Li et al., arXiv 2404.14469, section 4 and Listing 1), shared by what builds on it:
/// attention of the observation window, summed over its rows, pooled along the prompt, the mean of the query
/// heads that share a KV head.
class SnapKvScored : public TokenSelector {
 public:
  /// `window`: the observation window, in tokens.
  SnapKvScored(const PromptShape& prompt, std::vector<int64_t> budgets, Shared shared = Shared::kNone,
               int least_percent = 0, int64_t window = kSnapKvObservation);

 protected:
  ggml_tensor* build_scores(ggml_context* ctx, const LayerView& view) const override;
};

/// Ada-KV's safeguard (arXiv 2407.11550, section 4.2): the part of the budget that no KV head goes without.
inline constexpr int kAdaKvLeastPercent = 20;

}  // namespace windowkv
