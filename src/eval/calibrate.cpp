#include "eval/calibrate.h"

#include <fmt/format.h>

#include <algorithm>

#include "eval/fidelity.h"
#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

constexpr double kFactors[] = {0.25, 0.5, 1, 2, 4};
constexpr size_t kUnchanged = 2;

/// The default settings with one layer's budget changed: each layer by itself, so that budgets need not add
/// up.
class OneLayer final : public Policy {
 public:
  OneLayer(const SelectionConfig& config, double percent, int layer, double factor)
      : base_(make_policy("windowkv", {Budget::percent(percent), config})),
        other_(make_policy("windowkv", {Budget::percent(std::min(100.0, percent * factor)), config})),
        layer_(layer) {}

  std::string_view name() const override { return "windowkv"; }

  std::unique_ptr<Selector> start(const PromptShape& shape) const override {
    return std::make_unique<Both>(base_->start(shape), other_->start(shape), layer_);
  }

 private:
  class Both final : public Selector {
   public:
    Both(std::unique_ptr<Selector> base, std::unique_ptr<Selector> other, int layer)
        : base_(std::move(base)), other_(std::move(other)), layer_(layer) {}
    int64_t observation() const override { return std::max(base_->observation(), other_->observation()); }
    int64_t capacity(int layer) const override { return of(layer).capacity(layer); }
    bool decides(int layer) const override { return of(layer).decides(layer); }
    ggml_tensor* build(ggml_context* ctx, std::span<const LayerView> views) const override {
      return of(views.front().layer).build(ctx, views);
    }
    KeptTokens choose(int layer, std::span<const int32_t> picked) override {
      return of(layer).choose(layer, picked);
    }
    std::vector<GroupSelection> groups() const override { return base_->groups(); }

   private:
    Selector& of(int layer) const { return layer == layer_ ? *other_ : *base_; }
    std::unique_ptr<Selector> base_, other_;
    int layer_;
  };

  std::unique_ptr<Policy> base_, other_;
  int layer_;
};

SelectionConfig flat_config(int n_layer) {
  SelectionOverrides overrides;
  overrides.pyramid = Pyramid::kFlat;
  overrides.gamma = 1;
  return make_config("default", Task::kLocalization, n_layer, overrides);
}

/// The lower convex hull of KL over the factors, so that a step's gain never hides behind a worse one before
/// it.
std::vector<double> convex(std::span<const double> kl) {
  std::vector<double> hull(kl.begin(), kl.end());
  for (size_t i = 1; i < hull.size(); ++i) hull[i] = std::min(hull[i], hull[i - 1]);
  for (size_t i = 0; i < hull.size(); ++i)
    for (size_t a = 0; a < i; ++a)
      for (size_t b = i + 1; b < hull.size(); ++b) {
        const double at = (kFactors[i] - kFactors[a]) / (kFactors[b] - kFactors[a]);
        hull[i] = std::min(hull[i], hull[a] + at * (hull[b] - hull[a]));
      }
  return hull;
}

/// Shares with the mean 1 that make the sum of the layers' KL small: from the smallest factor on, the step
/// with the most gain a token is taken next, the last one in part.
std::vector<double> share_out(const std::vector<std::vector<double>>& kl) {
  std::vector<std::vector<double>> hulls;
  hulls.reserve(kl.size());
  for (const auto& layer : kl) hulls.push_back(convex(layer));
  std::vector<size_t> at(kl.size(), 0);
  std::vector<double> shares(kl.size(), kFactors[0]);
  double room = static_cast<double>(kl.size()) * (1 - kFactors[0]);
  while (room > 1e-9) {
    size_t best = kl.size();
    double most = -1;
    for (size_t l = 0; l < kl.size(); ++l) {
      if (at[l] + 1 >= std::size(kFactors)) continue;
      const double gain = (hulls[l][at[l]] - hulls[l][at[l] + 1]) / (kFactors[at[l] + 1] - kFactors[at[l]]);
      if (gain > most) {
        most = gain;
        best = l;
      }
    }
    if (best == kl.size()) break;
    const double step = std::min(room, kFactors[at[best] + 1] - kFactors[at[best]]);
    shares[best] += step;
    room -= step;
    ++at[best];
  }
  return shares;
}

}  // namespace

CalibrationResult calibrate(Engine& engine, const Model& model, std::span<const std::vector<Token>> prompts,
                            const CalibrateOptions& options) {
  const int layers = model.hparams().n_layer;
  const auto config = flat_config(layers);
  const auto full = make_policy("full", {Budget::percent(100), config});
  const auto unchanged = make_policy("windowkv", {Budget::percent(options.percent), config});
  CalibrationResult result;
  result.factors.assign(std::begin(kFactors), std::end(kFactors));
  result.kl.assign(static_cast<size_t>(layers), std::vector<double>(std::size(kFactors), 0.0));
  PrefillOptions prefill;
  prefill.reserve = options.max_tokens;
  prefill.cancelled = options.cancelled;
  int64_t done = 0;
  const auto total = static_cast<int64_t>(prompts.size()) * layers;
  for (const auto& prompt : prompts) {
    ReferenceAnswer reference;
    double unchanged_kl = 0;
    {
      std::vector<Sequence> sequences(2);
      const Policy* const policies[] = {full.get(), unchanged.get()};
      const auto span = engine.prefill(sequences, prompt, policies, prefill);
      const std::vector<float> logits(span.begin(), span.end());
      reference = reference_answer(engine, model.find_vocab(), sequences[0], logits, options.max_tokens);
      if (reference.steps.empty()) {
        done += layers;
        continue;
      }
      unchanged_kl = measure_fidelity(engine, sequences[1], reference).mean_kl;
    }
    ++result.prompts;
    // A layer at a time: the caches of all layers' variants at once would outgrow the full cache.
    for (int layer = 0; layer < layers; ++layer) {
      std::vector<OneLayer> variants;
      for (size_t f = 0; f < std::size(kFactors); ++f)
        if (f != kUnchanged) variants.emplace_back(config, options.percent, layer, kFactors[f]);
      std::vector<const Policy*> policies;
      policies.reserve(variants.size());
      for (const auto& variant : variants) policies.push_back(&variant);
      std::vector<Sequence> sequences(policies.size());
      engine.prefill(sequences, prompt, policies, prefill);
      auto sequence = sequences.begin();
      for (size_t f = 0; f < std::size(kFactors); ++f)
        result.kl[static_cast<size_t>(layer)][f] +=
            f == kUnchanged ? unchanged_kl : measure_fidelity(engine, *sequence++, reference).mean_kl;
      if (options.progress) options.progress(++done, total);
    }
  }
  if (result.prompts == 0)
    throw Error("no prompt has an answer of two tokens or more; give others, or end them with a question");
  for (auto& layer : result.kl)
    for (auto& kl : layer) kl /= static_cast<double>(result.prompts);
  result.layer_shares = share_out(result.kl);
  return result;
}

}  // namespace windowkv::eval
