#include "engine/sliding.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace windowkv {

namespace {

/// Between the layers of a model and those a policy knows.
class SlidingSelector final : public Selector {
 public:
  SlidingSelector(const HParams& hp, const Policy& policy, int64_t n)
      : hp_(hp), n_(n), layers_(hp.full_layers()), index_(static_cast<size_t>(hp.n_layer), -1) {
    for (size_t i = 0; i < layers_.size(); ++i) index_[static_cast<size_t>(layers_[i])] = static_cast<int>(i);
    if (layers_.empty()) return;
    if (!hp.layer_shares.empty()) {
      for (int layer : layers_) shares_.push_back(hp.layer_shares[static_cast<size_t>(layer)]);
      const double mean =
          std::accumulate(shares_.begin(), shares_.end(), 0.0) / static_cast<double>(shares_.size());
      for (double& share : shares_) share /= mean;
    }
    policys_ = policy.start(
        {n, static_cast<int>(layers_.size()), hp.n_head, hp.n_head_kv, hp.d_head, std::span(shares_)});
  }

  int64_t observation() const override { return policys_ ? policys_->observation() : 0; }
  int64_t capacity(int layer) const override {
    return !chosen(layer) ? hp_.full_rows(layer, n_) : policys_->capacity(index(layer));
  }
  bool heads_differ() const override { return policys_ && policys_->heads_differ(); }
  bool decides(int layer) const override { return chosen(layer) && policys_->decides(index(layer)); }
  int settled_at(int layer) const override {
    // Layers are settled in their order: one with a window waits for those below it.
    int below = layer;
    while (below >= 0 && !chosen(below)) --below;
    if (below < 0) return layer;
    return std::max(layer, layers_[static_cast<size_t>(policys_->settled_at(index(below)))]);
  }
  int64_t stride() const override { return policys_ ? policys_->stride() : 0; }
  std::vector<TokenRange> ahead() const override {
    return policys_ ? policys_->ahead() : std::vector<TokenRange>{};
  }
  Replay replay() const override { return policys_ ? policys_->replay() : Replay{}; }
  bool chooses_again() const override { return !policys_ || policys_->chooses_again(); }
  std::string_view against_recall() const override { return policys_ ? policys_->against_recall() : ""; }

  ggml_tensor* build(ggml_context* ctx, std::span<const LayerView> views) const override {
    std::vector<LayerView> numbered(views.begin(), views.end());
    for (auto& view : numbered) view.layer = index(view.layer);
    return policys_->build(ctx, numbered);
  }
  KeptTokens choose(int layer, std::span<const int32_t> picked) override {
    if (chosen(layer)) return policys_->choose(index(layer), picked);
    const int64_t shown = hp_.full_rows(layer, n_);
    std::vector<int32_t> last(static_cast<size_t>(shown));
    std::iota(last.begin(), last.end(), static_cast<int32_t>(n_ - shown));
    return {std::move(last)};
  }
  void restart() override {
    if (policys_) policys_->restart();
  }

  /// In the order of the model's layers, of which a policy knows some: each layer by itself.
  std::vector<GroupSelection> groups() const override {
    std::vector<GroupSelection> all;
    auto add = [&](int layer, GroupSelection selection) {
      selection.group = {layer, layer};
      all.push_back(std::move(selection));
    };
    for (int layer = 0; layer < hp_.n_layer; ++layer)
      if (hp_.slides(layer) && hp_.has_rows(layer)) {
        const int64_t shown = hp_.full_rows(layer, n_);
        add(layer, {.budget = shown, .kept = {{n_ - shown, n_}}});
      }
    if (policys_)
      for (const auto& selection : policys_->groups())
        for (int i = selection.group.first_layer; i <= selection.group.last_layer; ++i)
          add(layers_[static_cast<size_t>(i)], selection);
    std::ranges::sort(all, {}, [](const GroupSelection& s) { return s.group.first_layer; });
    return all;
  }

 private:
  /// Whether a policy chooses there.
  bool chosen(int layer) const { return index(layer) >= 0; }
  int index(int layer) const { return index_[static_cast<size_t>(layer)]; }

  const HParams& hp_;
  int64_t n_;
  std::vector<int> layers_;  ///< that see all tokens
  std::vector<int> index_;   ///< by layer: which of these it is, or -1
  std::vector<double> shares_;
  std::unique_ptr<Selector> policys_;  ///< null where it has no layer
};

}  // namespace

std::unique_ptr<Selector> start_selector(const HParams& hp, const Policy& policy, int64_t n) {
  if (hp.n_full_layers() < hp.n_layer) return std::make_unique<SlidingSelector>(hp, policy, n);
  return policy.start({n, hp.n_layer, hp.n_head, hp.n_head_kv, hp.d_head, hp.layer_shares});
}

}  // namespace windowkv
