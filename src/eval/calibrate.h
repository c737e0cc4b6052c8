#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "eval/jsonl_log.h"
#include "windowkv/engine.h"
#include "windowkv/generate.h"

/// What each layer needs of the cache, measured: how far the compressed cache's next-token distributions are
/// from the full cache's when one layer has a smaller or larger part of the prompt than the others.
namespace windowkv::eval {

/// The parts of the budget that a layer is tried with. Those between would double the time, and say little
/// more of how KL falls as the budget doubles.
inline constexpr double kCalibrationFactors[] = {0.25, 1, 4};
/// That of the layers that are not on trial.
inline constexpr size_t kUnchangedFactor = 1;

struct CalibrateOptions {
  double percent = 12;      ///< the budget that is shared out
  int64_t max_tokens = 32;  ///< of the full cache's answer that distributions are compared along
  JsonlLog* log = nullptr;  ///< one row a prompt and layer; those it has are not measured again
  std::string setup;        ///< tells runs with other models and settings apart
  std::function<bool()> cancelled;
  /// Work in tokens that pass through the model; what earlier runs measured is not part of it.
  std::function<void(int64_t done, int64_t total)> progress;
};

/// Mean KL(full ‖ compressed) along a prompt's answer, nats: [layer][factor], the other layers at the budget.
using LayerKl = std::vector<std::vector<double>>;

struct CalibrationResult {
  std::vector<double> layer_shares;  ///< mean 1
  LayerKl kl;                        ///< mean over the prompts
  std::vector<LayerKl> by_prompt;    ///< of the prompts whose answer has two tokens or more
};

/// Prefills every prompt once under the full cache and the default settings at each factor of the budget. A
/// layer with another factor than the others is composed of those caches: selection does not change what the
/// layers above it compute of the prompt. Throws Cancelled; Error where no prompt's answer has two tokens.
CalibrationResult calibrate(Engine& engine, const Model& model, std::span<const std::vector<Token>> prompts,
                            const CalibrateOptions& options);

}  // namespace windowkv::eval
