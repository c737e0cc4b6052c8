#include "windowkv/token_selector.h"

#include <fmt/format.h>
#include <ggml.h>

#include <algorithm>
#include <numeric>

#include "backend/graph.h"
#include "policy/top_scores.h"
#include "windowkv/error.h"

namespace windowkv {

TokenSelector::TokenSelector(const PromptShape& prompt, Shape shape)
    : prompt_(prompt), shape_(std::move(shape)) {
  for (auto& budget : shape_.budgets) budget = std::clamp<int64_t>(budget, 0, prompt.n);
  const int64_t least = *std::min_element(shape_.budgets.begin(), shape_.budgets.end());
  shape_.recent = std::min(shape_.recent, least);
  shape_.sinks = std::min(shape_.sinks, least - shape_.recent);
  shape_.observation = std::min(shape_.observation, prompt.n);
  const int64_t lists = shape_.shared == Shared::kNone    ? 1
                        : shape_.shared == Shared::kHeads ? prompt.n_head_kv
                                                          : int64_t{prompt.n_head_kv} * prompt.n_layer;
  if (lists > 1 && candidates() * lists > kMostScores)
    throw Error(fmt::format("a prompt of {} tokens; a budget that KV heads share serves up to {}", prompt.n,
                            kMostScores / lists));
}

int64_t TokenSelector::least(int layer) const {
  const int64_t tokens = shape_.budgets[static_cast<size_t>(layer)] * shape_.least_percent / 100;
  return std::clamp<int64_t>(tokens - shape_.sinks - shape_.recent, 0, chosen(layer));
}

int64_t TokenSelector::capacity(int layer) const {
  const int64_t budget = shape_.budgets[static_cast<size_t>(layer)];
  if (shape_.shared == Shared::kNone || !drops(layer)) return budget;
  if (shape_.shared == Shared::kAll) return prompt_.n;
  const int64_t most = prompt_.n_head_kv * chosen(layer) - (prompt_.n_head_kv - 1) * least(layer);
  return std::min(candidates(), most) + shape_.sinks + shape_.recent;
}

ggml_tensor* TokenSelector::build(ggml_context* ctx, std::span<const LayerView> views) const {
  if (shape_.shared != Shared::kNone) {
    ggml_tensor* all = nullptr;
    int64_t keep = 0;
    for (const auto& view : views) {
      auto* scores = build_scores(ctx, view);
      scores = build_raised(ctx, scores, scores, least(view.layer));
      scores = ggml_reshape_1d(ctx, ggml_cont(ctx, scores), ggml_nelements(scores));
      all = all != nullptr ? ggml_concat(ctx, all, scores, 0) : scores;
      keep += chosen(view.layer) * prompt_.n_head_kv;
    }
    return build_top_scores(ctx, all, keep, views.front().on_cpu);
  }
  auto* scores = build_scores(ctx, views.front());
  for (const auto& view : views.subspan(1)) scores = ggml_add(ctx, scores, build_scores(ctx, view));
  return build_top_scores(ctx, scores, chosen(views.front().layer), views.front().on_cpu);
}

ggml_tensor* TokenSelector::build_candidates(ggml_context* ctx, ggml_tensor* all, int64_t head) const {
  auto* rows =
      ggml_view_2d(ctx, all, all->ne[0], candidates(), all->nb[1],
                   static_cast<size_t>(head) * all->nb[2] + static_cast<size_t>(sinks()) * all->nb[1]);
  return build_widened(ctx, rows, build_numbers(ctx, candidates()));
}

KeptTokens TokenSelector::choose(int layer, std::span<const int32_t> picked) {
  if (drops(layer) && picked.empty()) {
    if (!again_) groups_.back().group.last_layer = layer;
    return kept_;
  }
  auto kept = picked_of(layer, picked);
  for (auto& list : kept) {
    // On some devices the highest scores come in any order.
    if (!std::ranges::is_sorted(list)) std::ranges::sort(list);
    for (auto& number : list) number += static_cast<int32_t>(sinks());
    list.insert(list.begin(), static_cast<size_t>(sinks()), 0);
    std::iota(list.begin(), list.begin() + sinks(), 0);
    for (int64_t i = prompt_.n - recent(); i < prompt_.n; ++i) list.push_back(static_cast<int32_t>(i));
  }
  if (!again_) tell(layer, kept);
  return kept_ = std::move(kept);
}

KeptTokens TokenSelector::picked_of(int layer, std::span<const int32_t> picked) const {
  const auto count = static_cast<size_t>(chosen(layer));
  if (!drops(layer)) {
    KeptTokens all(1, std::vector<int32_t>(count));
    std::iota(all.front().begin(), all.front().end(), 0);
    return all;
  }
  if (shape_.shared == Shared::kNone) {
    KeptTokens lists;
    for (; !picked.empty(); picked = picked.subspan(count))
      lists.emplace_back(picked.begin(), picked.begin() + static_cast<ptrdiff_t>(count));
    return lists;
  }
  KeptTokens heads(static_cast<size_t>(prompt_.n_head_kv));
  const int64_t first = shape_.shared == Shared::kAll ? int64_t{layer} * prompt_.n_head_kv : 0;
  for (const int32_t number : picked)
    if (const int64_t head = number / candidates() - first; head >= 0 && head < prompt_.n_head_kv)
      heads[static_cast<size_t>(head)].push_back(static_cast<int32_t>(number % candidates()));
  return heads;
}

void TokenSelector::tell(int layer, const KeptTokens& kept) {
  std::vector<int32_t> any;
  for (const auto& list : kept) any.insert(any.end(), list.begin(), list.end());
  std::sort(any.begin(), any.end());
  any.erase(std::unique(any.begin(), any.end()), any.end());
  GroupSelection group{{layer, layer}, chosen(layer) + sinks() + recent(), {}, to_ranges(any), {}};
  if (kept.size() > 1)
    for (const auto& list : kept) group.kept_by_head.push_back(to_ranges(list));
  groups_.push_back(std::move(group));
}

std::vector<int64_t> flat_budgets(int n_layer, int64_t budget) {
  return std::vector<int64_t>(static_cast<size_t>(n_layer), budget);
}

}  // namespace windowkv
