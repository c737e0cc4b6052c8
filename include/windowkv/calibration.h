#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "windowkv/model.h"

/// What a model's layers need of the cache, measured once (`windowkv calibrate`) and kept in a small JSON
/// file. One serves all GGUFs of a model, whatever types their weights have: HParams::fingerprint tells.
namespace windowkv {

struct Calibration {
  std::string source;                ///< the file, or "built in"
  std::string model;                 ///< general.name of the GGUF it was made with
  std::string fingerprint;           ///< of the model
  std::vector<double> layer_shares;  ///< by layer, relative budgets with the mean 1
};

/// Throws Error for a file that is no calibration, or one of another model.
Calibration read_calibration(const std::string& path, const HParams& hp);

/// The model's own among the `*.calibration.json` in its folder, the first by name; else the one that comes
/// with this library, if any does. Files in the folder that are no calibrations are told to `warning`, one
/// line each, and passed over.
std::optional<Calibration> find_calibration(const std::string& model_path, const HParams& hp,
                                            const std::function<void(const std::string& line)>& warning = {});

}  // namespace windowkv
