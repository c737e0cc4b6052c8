#pragma once

#include <string>

namespace windowkv::cli {

/// ggml's devices with their memory, one a line, as --device takes their names.
std::string devices_text();

}  // namespace windowkv::cli
