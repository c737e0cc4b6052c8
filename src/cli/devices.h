#pragma once

#include <string>

#include "windowkv/engine.h"

namespace windowkv::cli {

/// ggml's devices with their memory, one a line, as --device takes their names.
std::string devices_text();

/// A line about the operations that the engine's devices left to the CPU; empty where they left none.
std::string strays_text(const Engine& engine);

}  // namespace windowkv::cli
