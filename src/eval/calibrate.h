#pragma once

#include <functional>
#include <span>
#include <vector>

#include "windowkv/engine.h"
#include "windowkv/generate.h"

/// What each layer needs of the cache, measured: how far the compressed cache's next-token distributions are
/// from the full cache's when one layer has a smaller or larger part of the prompt than the others.
namespace windowkv::eval {

struct CalibrateOptions {
  double percent = 12;      ///< the budget that is shared out
  int64_t max_tokens = 48;  ///< of the full cache's answer that distributions are compared along
  std::function<bool()> cancelled;
  std::function<void(int64_t done, int64_t total)> progress;
};

struct CalibrationResult {
  std::vector<double> layer_shares;     ///< mean 1
  std::vector<double> factors;          ///< the parts tried, relative to the budget
  std::vector<std::vector<double>> kl;  ///< [layer][factor] mean KL in nats, the other layers at the budget
  int64_t prompts = 0;
};

/// Prefills every prompt with the default settings and, layer by layer, factors of the budget for one layer.
/// The sum of the layers' KL is then made small under the same total (steepest step first). Prompts whose
/// answer has fewer than two tokens are left out; throws Error where no other is left.
CalibrationResult calibrate(Engine& engine, const Model& model, std::span<const std::vector<Token>> prompts,
                            const CalibrateOptions& options);

}  // namespace windowkv::eval
