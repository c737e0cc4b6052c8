#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "windowkv/model.h"

namespace windowkv::cli {

/// "layer 4" or "layers 4-7".
std::string layers_text(int first, int last);

/// How many tokens each layer keeps, equal neighbours together: "389 in layers 0-1", "120 in layer 2".
/// Recurrent layers keep none, and are passed over.
std::vector<std::string> kept_by_layers(const HParams& hp, const std::vector<int64_t>& kept);

/// The layers of a list such as {"0", "5-8"}, [layer] true for those in it. Throws Error for what is no layer
/// of a model of `n_layer`.
std::vector<bool> parse_layers(const std::vector<std::string>& list, int n_layer);

}  // namespace windowkv::cli
