#pragma once

#include <string_view>

namespace windowkv {

/// src/server/openapi.json, compiled in.
std::string_view builtin_openapi();

}  // namespace windowkv
