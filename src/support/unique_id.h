#pragma once

#include <atomic>
#include <cstdint>

namespace windowkv {

/// Never the same twice in a process, and never 0.
inline uint64_t unique_id() {
  static std::atomic<uint64_t> last = 0;
  return ++last;
}

}  // namespace windowkv
