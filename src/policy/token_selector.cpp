#include "windowkv/token_selector.h"

#include <ggml.h>

#include <algorithm>

#include "policy/top_scores.h"

namespace windowkv {

TokenSelector::TokenSelector(const PromptShape& prompt, Shape shape)
    : prompt_(prompt), shape_(std::move(shape)) {
  for (auto& budget : shape_.budgets) budget = std::clamp<int64_t>(budget, 0, prompt.n);
  const int64_t least = *std::min_element(shape_.budgets.begin(), shape_.budgets.end());
  shape_.recent = std::min(shape_.recent, least);
  shape_.sinks = std::min(shape_.sinks, least - shape_.recent);
  shape_.observation = std::min(shape_.observation, prompt.n);
}

ggml_tensor* TokenSelector::build(ggml_context* ctx, std::span<const LayerView> views) const {
  auto* scores = build_scores(ctx, views.front());
  for (const auto& view : views.subspan(1)) scores = ggml_add(ctx, scores, build_scores(ctx, view));
  return build_top_scores(ctx, scores, chosen(views.front().layer), views.front().on_cpu);
}

KeptTokens TokenSelector::choose(int layer, std::span<const int32_t> picked) {
  if (drops(layer) && picked.empty()) {
    if (!again_) groups_.back().group.last_layer = layer;
    return kept_;
  }
  const int64_t count = chosen(layer);
  const size_t lists = drops(layer) ? picked.size() / static_cast<size_t>(count) : 1;
  KeptTokens kept(lists);
  for (size_t h = 0; h < lists; ++h) {
    auto& list = kept[h];
    list.reserve(static_cast<size_t>(capacity(layer)));
    for (int64_t i = 0; i < sinks(); ++i) list.push_back(static_cast<int32_t>(i));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t number =
          drops(layer) ? picked[h * static_cast<size_t>(count) + static_cast<size_t>(i)] : i;
      list.push_back(static_cast<int32_t>(sinks() + number));
    }
    // On some devices the highest scores come in any order.
    if (!std::is_sorted(list.end() - count, list.end())) std::sort(list.end() - count, list.end());
    for (int64_t i = prompt_.n - recent(); i < prompt_.n; ++i) list.push_back(static_cast<int32_t>(i));
  }
  if (!again_) tell(layer, kept);
  return kept_ = std::move(kept);
}

void TokenSelector::tell(int layer, const KeptTokens& kept) {
  std::vector<int32_t> any;
  for (const auto& list : kept) any.insert(any.end(), list.begin(), list.end());
  std::sort(any.begin(), any.end());
  any.erase(std::unique(any.begin(), any.end()), any.end());
  GroupSelection group{{layer, layer}, capacity(layer), {}, to_ranges(any), {}};
  if (kept.size() > 1)
    for (const auto& list : kept) group.kept_by_head.push_back(to_ranges(list));
  groups_.push_back(std::move(group));
}

std::vector<int64_t> flat_budgets(int n_layer, int64_t budget) {
  return std::vector<int64_t>(static_cast<size_t>(n_layer), budget);
}

}  // namespace windowkv
