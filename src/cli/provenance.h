#pragma once

#include <string>
#include <utility>
#include <vector>

#include "support/hash.h"
#include "windowkv/model.h"

namespace windowkv::cli {

/// This process's command line, as a shell would take it again.
std::string command_line();

/// For the keys of results files: what a calibration changes in answers; "" without one.
std::string calibration_key(const Model& model);

/// What every report says of where its figures come from: command, model file and its hash,
/// versions, calibration, device.
std::vector<std::pair<std::string, std::string>> provenance(const Model& model,
                                                            const std::string& model_hash);

}  // namespace windowkv::cli
