#include "eval/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "eval/fidelity.h"
#include "eval/layer_shares.h"
#include "support/hash.h"
#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

constexpr size_t kFactors = std::size(kCalibrationFactors);

using nlohmann::ordered_json;

std::string_view bytes_of(std::span<const Token> tokens) {
  return {reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes()};
}

/// A prompt's results: those of earlier runs, and where new ones go.
class PromptLog {
 public:
  PromptLog(const CalibrateOptions& options, std::span<const Token> prompt)
      : log_(options.log), key_(fmt::format("{} {}", fnv1a64(bytes_of(prompt)), options.setup)) {}

  /// By factor; none for what is not there, empty where the answer was too short. Throws Error for a row that
  /// is damaged.
  std::optional<std::vector<double>> find(int layer) const {
    const auto* row = log_ == nullptr ? nullptr : log_->find(key(layer));
    if (row == nullptr) return std::nullopt;
    auto kl = read_row(*row, [](const ordered_json& r) { return r.at("kl").get<std::vector<double>>(); });
    if (!kl.empty() && kl.size() != kFactors) fail_damaged(*row);
    return kl;
  }
  void append(int layer, const std::vector<double>& kl) const {
    if (log_ != nullptr) log_->append({{"key", key(layer)}, {"layer", layer}, {"kl", kl}});
  }
  int missing(int layers) const {
    int count = 0;
    for (int layer = 0; layer < layers; ++layer) {
      const auto kl = find(layer);
      if (kl && kl->empty()) return 0;
      count += kl ? 0 : 1;
    }
    return count;
  }

 private:
  std::string key(int layer) const { return fmt::format("layer {} {}", layer, key_); }
  JsonlLog* log_;
  std::string key_;
};

class Calibrator {
 public:
  Calibrator(Engine& engine, const Model& model, const CalibrateOptions& options)
      : engine_(engine), model_(model), options_(options), layers_(model.hparams().n_layer) {
    SelectionOverrides overrides;
    overrides.pyramid = Pyramid::kFlat;
    overrides.gamma = 1;
    const auto config = make_config("default", Task::kLocalization, layers_, overrides);
    owned_.push_back(make_policy("full", {Budget::percent(100), config}));
    for (const double factor : kCalibrationFactors)
      owned_.push_back(
          make_policy("windowkv", {Budget::percent(std::min(100.0, options.percent * factor)), config}));
    for (const auto& policy : owned_) policies_.push_back(policy.get());
  }

  CalibrationResult run(std::span<const std::vector<Token>> prompts) {
    for (const auto& prompt : prompts) total_ += work(prompt, PromptLog(options_, prompt).missing(layers_));
    CalibrationResult result;
    for (const auto& prompt : prompts)
      if (auto kl = measure(prompt); !kl.empty()) result.by_prompt.push_back(std::move(kl));
    return result;
  }

 private:
  int64_t layer_work() const { return static_cast<int64_t>(kFactors - 1) * options_.max_tokens; }
  int64_t work(const std::vector<Token>& prompt, int missing) const {
    return missing == 0 ? 0 : static_cast<int64_t>(prompt.size()) + missing * layer_work();
  }
  void advance(int64_t done) const {
    if (options_.cancelled && options_.cancelled()) throw Cancelled();
    if (options_.progress) options_.progress(done_ + done, total_);
  }

  /// Empty where the answer is too short.
  LayerKl measure(const std::vector<Token>& prompt) {
    const PromptLog log(options_, prompt);
    const int missing = log.missing(layers_);
    LayerKl kl(static_cast<size_t>(layers_));
    bool usable = true;
    if (missing > 0) {
      usable = measure(prompt, log, kl);
      done_ += work(prompt, missing);
      advance(0);
    }
    for (int layer = 0; layer < layers_ && usable; ++layer)
      if (auto known = log.find(layer)) {
        usable = !known->empty();
        kl[static_cast<size_t>(layer)] = std::move(*known);
      }
    return usable ? kl : LayerKl();
  }

  /// Fills in the layers that the log does not have. False where the answer is too short.
  bool measure(const std::vector<Token>& prompt, const PromptLog& log, LayerKl& kl) {
    PrefillOptions prefill;
    prefill.reserve = options_.max_tokens;
    prefill.cancelled = options_.cancelled;
    const auto tokens = static_cast<int64_t>(prompt.size());
    prefill.progress = [&](int64_t done, int64_t total) { advance(tokens * done / total); };
    std::vector<Sequence> sequences(policies_.size());
    const auto span = engine_.prefill(sequences, prompt, policies_, prefill);
    const std::vector<float> logits(span.begin(), span.end());
    const auto reference =
        reference_answer(engine_, model_.find_vocab(), sequences[0], logits, options_.max_tokens);
    if (reference.steps.empty()) {
      log.append(0, {});
      return false;
    }
    auto by_factor = std::span(sequences).subspan(1);
    const double unchanged = measure_fidelity(engine_, by_factor[kUnchangedFactor], reference).mean_kl;
    std::vector<const Sequence*> by_layer(static_cast<size_t>(layers_), &by_factor[kUnchangedFactor]);
    int64_t done = tokens;
    for (int layer = 0; layer < layers_; ++layer) {
      if (log.find(layer)) continue;
      const auto l = static_cast<size_t>(layer);
      for (size_t f = 0; f < kFactors; ++f) {
        if (f == kUnchangedFactor) {
          kl[l].push_back(unchanged);
          continue;
        }
        advance(done + static_cast<int64_t>(f) * options_.max_tokens);
        by_layer[l] = &by_factor[f];
        auto variant = engine_.compose(by_layer);
        kl[l].push_back(measure_fidelity(engine_, variant, reference).mean_kl);
      }
      by_layer[l] = &by_factor[kUnchangedFactor];
      log.append(layer, kl[l]);
      advance(done += layer_work());
    }
    return true;
  }

  Engine& engine_;
  const Model& model_;
  const CalibrateOptions& options_;
  int layers_;
  std::vector<std::unique_ptr<Policy>> owned_;
  std::vector<const Policy*> policies_;  ///< full, then by factor
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

CalibrationResult calibrate(Engine& engine, const Model& model, std::span<const std::vector<Token>> prompts,
                            const CalibrateOptions& options) {
  if (model.hparams().recurrent())
    throw Error("what layers need is not measured of models with recurrent layers");
  auto result = Calibrator(engine, model, options).run(prompts);
  if (result.by_prompt.empty())
    throw Error(
        "no prompt got an answer of at least two tokens; give other prompts, or end them with a question");
  result.kl.assign(static_cast<size_t>(model.hparams().n_layer), std::vector<double>(kFactors, 0.0));
  for (const auto& prompt : result.by_prompt)
    for (size_t l = 0; l < prompt.size(); ++l)
      for (size_t f = 0; f < kFactors; ++f)
        result.kl[l][f] += prompt[l][f] / static_cast<double>(result.by_prompt.size());
  result.layer_shares = share_out(result.by_prompt);
  return result;
}

}  // namespace windowkv::eval
