#pragma once

#include <cstdint>

namespace windowkv {

// Blocks of ggml's quantized types, as GGUF files hold them. Scales are half-precision numbers.
constexpr int64_t kBlock = 32;

struct Q8Block {
  uint16_t scale;
  int8_t values[kBlock];
};

struct Q4Block {
  uint16_t scale;
  uint8_t values[kBlock / 2];  // element i in the low half of i, element i + 16 in the high one
};

}  // namespace windowkv
