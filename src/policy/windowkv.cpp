// WindowKV (arXiv 2503.17922): windows of consecutive tokens that the end of the prompt attends to, chosen
// once for a group of layers. Where windows lie decides between the two selectors.
#include <ggml.h>

#include <algorithm>
#include <numeric>

#include "policy/observed_in_place.h"
#include "policy/policies.h"
#include "policy/run_scores.h"
#include "policy/top_scores.h"
#include "policy/window_scores.h"
#include "windowkv/head_scores.h"
#include "windowkv/token_selector.h"

namespace windowkv {

namespace {

/// Windows on a grid, as published.
class GridSelector final : public Selector {
 public:
  GridSelector(const SelectionConfig& config, const PromptShape& shape, int64_t budget)
      : config_(config),
        n_(shape.n),
        observation_(observation_tokens(config, shape.n, budget)),
        review_(shape.n - observation_) {
    const auto budgets = group_budgets(config, shape.n_layer, shape.n, budget, shape.layer_shares);
    const auto groups = make_groups(shape.n_layer, config.gamma);
    for (size_t g = 0; g < groups.size(); ++g) groups_.push_back({groups[g], budgets[g], {}, {}, {}});
  }

  int64_t observation() const override { return observation_; }

  int64_t capacity(int layer) const override {
    return std::min(n_, keep(group_of(layer)) * config_.omega + observation_);
  }

  bool decides(int layer) const override {
    const auto& g = group_of(layer);
    return deciding_layer(config_, g.group, layer) && drops(g);
  }

  int settled_at(int layer) const override { return settling_layer(config_, group_of(layer).group, layer); }

  ggml_tensor* build(ggml_context* ctx, std::span<const LayerView> views) const override {
    auto* scores = build_window_scores(ctx, views.front(), config_, review_);
    for (const auto& view : views.subspan(1))
      scores = ggml_add(ctx, scores, build_window_scores(ctx, view, config_, review_));
    return build_top_scores(ctx, scores, keep(group_of(views.front().layer)), views.front().on_cpu);
  }

  KeptTokens choose(int layer, std::span<const int32_t> picked) override {
    auto& g = groups_[static_cast<size_t>(layer / config_.gamma)];
    if (layer == g.group.first_layer) {
      if (drops(g)) {
        g.windows.assign(picked.begin(), picked.end());
        std::sort(g.windows.begin(), g.windows.end());
      } else {
        g.windows.resize(static_cast<size_t>(keep(g)));
        std::iota(g.windows.begin(), g.windows.end(), 0);
      }
      positions_.clear();
      for (int64_t w : g.windows)
        for (int64_t i = w * config_.omega; i < std::min(review_, (w + 1) * config_.omega); ++i)
          positions_.push_back(static_cast<int32_t>(i));
      for (int64_t i = review_; i < n_; ++i) positions_.push_back(static_cast<int32_t>(i));
      g.kept = to_ranges(positions_);
    }
    return {positions_};
  }

  std::vector<GroupSelection> groups() const override { return groups_; }

 private:
  const GroupSelection& group_of(int layer) const {
    return groups_[static_cast<size_t>(layer / config_.gamma)];
  }
  int64_t keep(const GroupSelection& g) const { return windows_kept(config_, review_, g.budget); }
  /// Whether there is anything to choose.
  bool drops(const GroupSelection& g) const {
    return keep(g) > 0 && keep(g) < window_count(config_, review_);
  }

  SelectionConfig config_;
  int64_t n_;
  int64_t observation_;
  int64_t review_;
  std::vector<GroupSelection> groups_;
  std::vector<int32_t> positions_;  // of the group last decided
};

/// Free windows: the tokens with the highest run scores.
class FreeSelector final : public TokenSelector {
 public:
  FreeSelector(const SelectionConfig& config, const PromptShape& prompt, int64_t budget)
      : TokenSelector(prompt, shape(config, prompt, budget)),
        config_(config),
        groups_(make_groups(prompt.n_layer, config.gamma)) {}

  bool decides(int layer) const override {
    return drops(layer) && deciding_layer(config_, group_of(layer), layer);
  }
  int settled_at(int layer) const override { return settling_layer(config_, group_of(layer), layer); }
  int64_t stride() const override {
    for (int layer = 0; layer < prompt().n_layer && config_.spread_weight > 0; ++layer)
      if (drops(layer)) return spread_stride(config_, prompt().n);
    return 0;
  }
  bool chooses_again() const override { return true; }

 protected:
  ggml_tensor* build_scores(ggml_context* ctx, const LayerView& view) const override {
    auto* observed =
        config_.heads == Heads::kPerKv && means_in_place(view)
            ? build_mean_in_place(ctx, view, sinks(), candidates())
            : by_list(ctx, view, build_observed_by_head(ctx, view, sinks() + candidates(), config_.rows));
    auto* lists = build_run_scores(ctx, observed, config_.omega, view.on_cpu);
    if (view.accumulated == nullptr) return lists;
    // What the end of the prompt looks for and what the prompt itself looks at, each as shares of its sum.
    // No runs of the latter: it has no place where an answer begins.
    auto* spread = by_list(ctx, view, view.accumulated);
    auto part = [&](ggml_tensor* scores, int percent) {
      // Behind a stored prefix there may be no such query, and a sum of 0.
      auto* sum = ggml_scale_bias(ctx, ggml_sum_rows(ctx, scores), 1.0f, 1e-30f);
      return ggml_scale(ctx, ggml_div(ctx, scores, sum), static_cast<float>(percent) / 100);
    };
    return ggml_add(ctx, part(lists, 100 - config_.spread_weight), part(spread, config_.spread_weight));
  }

 private:
  /// Scores of query heads [sinks() + candidates(), n_head] → of the candidates, by list.
  ggml_tensor* by_list(ggml_context* ctx, const LayerView& view, ggml_tensor* scores) const {
    auto* lists = build_combined_heads(ctx, scores, view.k->ne[2], config_.heads, view.on_cpu);
    return ggml_cont(ctx, ggml_view_2d(ctx, lists, candidates(), lists->ne[1], lists->nb[1],
                                       static_cast<size_t>(sinks()) * lists->nb[0]));
  }

  static Shape shape(const SelectionConfig& config, const PromptShape& prompt, int64_t budget) {
    const auto always = always_kept(config, prompt.n, budget);
    const auto by_group = group_budgets(config, prompt.n_layer, prompt.n, budget, prompt.layer_shares);
    Shape shape{.sinks = always.sinks,
                .recent = always.recent,
                .observation = observation_tokens(config, prompt.n, budget)};
    for (int layer = 0; layer < prompt.n_layer; ++layer)
      shape.budgets.push_back(by_group[static_cast<size_t>(layer / config.gamma)] + always.total());
    return shape;
  }
  const Group& group_of(int layer) const { return groups_[static_cast<size_t>(layer / config_.gamma)]; }

  SelectionConfig config_;
  std::vector<Group> groups_;
};

class WindowKv final : public Policy {
 public:
  explicit WindowKv(const PolicyOptions& options) : options_(options) { options_.config.validate(); }
  std::string_view name() const override { return "windowkv"; }
  std::unique_ptr<Selector> start(const PromptShape& shape) const override {
    const int64_t budget = options_.budget.resolve(shape.n);
    auto config = options_.config;
    // The released code's pyramid drops tokens of its upper groups even where the budget holds the prompt.
    if (options_.budget.below_floor(shape.n)) config.reference = false;
    if (config.windows == Windows::kGrid) return std::make_unique<GridSelector>(config, shape, budget);
    return std::make_unique<FreeSelector>(config, shape, budget);
  }
  const SelectionConfig* config() const override { return &options_.config; }
  std::optional<Budget> budget() const override { return options_.budget; }

 private:
  PolicyOptions options_;
};

}  // namespace

std::unique_ptr<Policy> make_windowkv(const PolicyOptions& options) {
  return std::make_unique<WindowKv>(options);
}

}  // namespace windowkv
