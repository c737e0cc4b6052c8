// TOVA (Oren et al., arXiv 2401.06104): the tokens that the last query attends to most, the mean over all
// heads of the layer. Decided once, at the end of the prompt.
#include "policy/policies.h"
#include "windowkv/head_scores.h"
#include "windowkv/token_selector.h"

namespace windowkv {

std::unique_ptr<Policy> make_tova(const PolicyOptions& options) {
  return make_token_policy({.name = "tova",
                            .budget = options.budget,
                            .recent = 1,
                            .scores = [](ggml_context* ctx, const LayerView& view, int64_t keys) {
                              return build_mean_over_share(ctx, build_observed_by_head(ctx, view, keys), 1);
                            }});
}

}  // namespace windowkv
