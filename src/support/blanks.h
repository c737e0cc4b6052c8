#pragma once

#include <string_view>

namespace windowkv {

/// White space in ASCII, as isspace() has it.
inline constexpr std::string_view kBlanks = " \t\n\v\f\r";

}  // namespace windowkv
