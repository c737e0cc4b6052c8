#pragma once

#include <string_view>

namespace windowkv {

/// models/*.calibration.json, one a line, compiled in (cmake/embed.cmake).
std::string_view builtin_calibrations();

}  // namespace windowkv
