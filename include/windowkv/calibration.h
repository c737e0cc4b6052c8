#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "windowkv/model.h"

/// How much of the cache each layer of a model needs, measured once (`windowkv calibrate`) and stored in a
/// small JSON file. One file serves all GGUFs of a model, whatever their weight types: see
/// HParams::fingerprint.
namespace windowkv {

struct Calibration {
  std::string source;                ///< the file, or "built in"
  std::string model;                 ///< general.name of the GGUF it was measured on
  std::string fingerprint;           ///< of the model
  std::vector<double> layer_shares;  ///< by layer, relative budgets with mean 1
};

/// Throws Error for a file that is not a calibration or belongs to another model.
Calibration read_calibration(const std::string& path, const HParams& hp);

/// The model's own calibration among the `*.calibration.json` in its folder, the first by name; otherwise the
/// one bundled with this library, if any. Files in the folder that are not calibrations are skipped and
/// reported to `warning`, one line each.
std::optional<Calibration> find_calibration(const std::string& model_path, const HParams& hp,
                                            const std::function<void(const std::string& line)>& warning = {});

}  // namespace windowkv
