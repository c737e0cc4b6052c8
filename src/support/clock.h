#pragma once

#include <chrono>

namespace windowkv {

using Clock = std::chrono::steady_clock;

/// Milliseconds from `start` until now.
inline double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

}  // namespace windowkv
