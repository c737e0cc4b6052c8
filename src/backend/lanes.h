#pragma once

// Vectors of floats as the kernels of this folder write them: by compilers' own vector types, in functions
// that are always inlined, so that one source serves every generation of processors.

#include <ggml.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "backend/ggml_blocks.h"

// Vectors are a means of writing sums of eight at once; nothing passes them by value.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace windowkv {

#define INLINE [[gnu::always_inline]] inline

constexpr int64_t kLanes = 8;
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));
// For processors with 512 bits, where most of the time goes.
using WideLanes = float __attribute__((vector_size(2 * kLanes * sizeof(float))));

template <typename Vector>
struct BitsOfLanes;
template <>
struct BitsOfLanes<Lanes> {
  using Type = uint32_t __attribute__((vector_size(sizeof(Lanes))));
  using Whole = int32_t __attribute__((vector_size(sizeof(Lanes))));
};
template <>
struct BitsOfLanes<WideLanes> {
  using Type = uint32_t __attribute__((vector_size(sizeof(WideLanes))));
  using Whole = int32_t __attribute__((vector_size(sizeof(WideLanes))));
};

template <bool wide>
using Widest = std::conditional_t<wide, WideLanes, Lanes>;

INLINE Lanes folded(Lanes x) {
  return x;
}

INLINE Lanes folded(WideLanes x) {
  return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
         __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
}

/// The sum of two, or the higher of each pair of lanes.
template <bool most, typename Vector>
INLINE Vector joined(Vector a, Vector b) {
  if (most) return a > b ? a : b;
  return a + b;
}

/// Of each of eight vectors the sum of its lanes, or the highest of them. Not returned: Clang refuses vectors
/// that pass between functions for different processors.
template <bool most>
INLINE void join_lanes(const Lanes* a, Lanes* each) {
  Lanes b[4];
  Lanes c[2];
  for (int64_t i = 0; i < 4; ++i)
    b[i] = joined<most>(__builtin_shufflevector(a[2 * i], a[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14),
                        __builtin_shufflevector(a[2 * i], a[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15));
  for (int64_t i = 0; i < 2; ++i)
    c[i] = joined<most>(__builtin_shufflevector(b[2 * i], b[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13),
                        __builtin_shufflevector(b[2 * i], b[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15));
  *each = joined<most>(__builtin_shufflevector(c[0], c[1], 0, 1, 2, 3, 8, 9, 10, 11),
                       __builtin_shufflevector(c[0], c[1], 4, 5, 6, 7, 12, 13, 14, 15));
}

/// A half-precision number by its bits; infinities and NaN, which caches do not hold, become large numbers.
INLINE float half(uint16_t bits) {
  uint32_t wide = static_cast<uint32_t>(bits & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  value *= 0x1p112f;
  std::memcpy(&wide, &value, sizeof value);
  wide |= static_cast<uint32_t>(bits & 0x8000) << 16;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

INLINE void widen_row(ggml_type type, const char* row, float* out, int64_t d) {
  switch (type) {
    case GGML_TYPE_Q8_0: {
      const auto* blocks = reinterpret_cast<const Q8Block*>(row);
      for (int64_t b = 0; b < d / kBlock; ++b) {
        const float scale = half(blocks[b].scale);
        for (int64_t i = 0; i < kBlock; ++i)
          out[b * kBlock + i] = scale * static_cast<float>(blocks[b].values[i]);
      }
      return;
    }
    case GGML_TYPE_Q4_0: {
      const auto* blocks = reinterpret_cast<const Q4Block*>(row);
      for (int64_t b = 0; b < d / kBlock; ++b) {
        const float scale = half(blocks[b].scale);
        for (int64_t i = 0; i < kBlock / 2; ++i) {
          const int both = blocks[b].values[i];
          out[b * kBlock + i] = scale * static_cast<float>((both & 15) - 8);
          out[b * kBlock + kBlock / 2 + i] = scale * static_cast<float>((both >> 4) - 8);
        }
      }
      return;
    }
    case GGML_TYPE_BF16: {
      const auto* values = reinterpret_cast<const uint16_t*>(row);
      for (int64_t i = 0; i < d; ++i) {
        const uint32_t wide = static_cast<uint32_t>(values[i]) << 16;
        std::memcpy(&out[i], &wide, sizeof wide);
      }
      return;
    }
    default: {
      const auto* values = reinterpret_cast<const uint16_t*>(row);
      for (int64_t i = 0; i < d; ++i) out[i] = half(values[i]);
    }
  }
}

/// e^y for −87 ≤ y ≤ 0 to 2·10⁻⁷; 0 below. 2^f by the Taylor series of the fraction f, which is in ±½.
template <typename Vector>
INLINE Vector exp_lanes(Vector y) {
  using Bits = typename BitsOfLanes<Vector>::Type;  // which may pass their ends where y is too low
  constexpr float kShift = 0x1.8p23f;  // what is added to it is rounded to a whole number, in the lowest bits
  const Vector power = y * 1.44269504f;
  const Vector shifted = power + kShift;
  const Vector f = power - (shifted - kShift);
  Vector e =
      1.0f +
      f * (6.93147181e-1f +
           f * (2.40226507e-1f +
                f * (5.55041087e-2f + f * (9.61812911e-3f + f * (1.33335581e-3f + f * 1.54035304e-4f)))));
  Bits bits, whole;
  std::memcpy(&bits, &e, sizeof e);
  std::memcpy(&whole, &shifted, sizeof whole);
  bits += whole << 23;
  std::memcpy(&e, &bits, sizeof e);
  return y < -87.0f ? Vector{} : e;
}

/// cap · tanh(x / cap), to 2·10⁻⁷ of cap.
template <typename Vector>
INLINE Vector cap_lanes(Vector x, float cap) {
  const Vector y = x / cap;
  const Vector e = exp_lanes((y < 0.0f ? y : -y) * 2.0f);
  const Vector far = (1.0f - e) / (1.0f + e);
  const Vector square = y * y;
  // Near 0 the difference from 1 would be lost.
  const Vector near = y * (1.0f + square * (-1.0f / 3 + square * (2.0f / 15 - square * (17.0f / 315))));
  return cap * (square < 0.04f ? near : y < 0.0f ? -far : far);
}

}  // namespace windowkv
