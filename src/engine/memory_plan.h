#pragma once

#include "backend/backend.h"
#include "windowkv/engine.h"

namespace windowkv {

/// Throws Error for room that cannot be.
void check_reserve(int64_t reserve);

/// " on RPC0 (127.0.0.1:50052), layers 0-5", for messages; "" where the CPU is all there is.
std::string place_text(const Backends& backends, size_t device);

}  // namespace windowkv
