#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace windowkv {

/// JSON that came from outside. Throws Error, which ends a sentence about the text ("is not JSON: ..."), for
/// what is not JSON, is nested more than 64 deep, or has an object of more than 4,096 fields: whatever walks
/// it recurses, and each key is looked for among those before.
nlohmann::ordered_json parse_bounded_json(std::string_view text);

}  // namespace windowkv
