#pragma once

#include <string>
#include <vector>

#include "windowkv/model.h"

/// What a model's layers need of the cache, measured once (`windowkv calibrate`) and kept in a small JSON
/// file beside the model.
namespace windowkv {

struct Calibration {
  std::string model;                 ///< general.name of the GGUF; files of one family share it
  std::vector<double> layer_shares;  ///< by layer, relative budgets with the mean 1
};

/// Throws Error for a file that is no calibration, or one of another model.
Calibration read_calibration(const std::string& path, const HParams& hp);

/// The `*.calibration.json` in the model's folder that was made for a model of this name and depth; "" where
/// there is none, or the model has no name. Throws Error where such a file is no calibration.
std::string find_calibration(const std::string& model_path, const HParams& hp);

}  // namespace windowkv
