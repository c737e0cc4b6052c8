#pragma once

// What attention of many queries is computed with, whatever its products are: panels of queries that lie side
// by side, one in each lane of a register, and blocks of rows that they go through.

#include <cstdint>
#include <cstring>
#include <vector>

#include "backend/lanes.h"

namespace windowkv {

constexpr int64_t kBlockRows = 64;
/// Below every score, and finite, so that differences from it are numbers.
constexpr float kLowest = -1e30f;

constexpr int64_t rounded_up(int64_t x, int64_t step) {
  return (x + step - 1) / step * step;
}

/// Memory that vectors do not straddle lines of.
template <typename Number>
class Aligned {
 public:
  explicit Aligned(int64_t count) : lines_(static_cast<size_t>(rounded_up(count, kOfLine) / kOfLine)) {}
  Number* data() { return lines_.empty() ? nullptr : lines_.front().of; }
  const Number* data() const { return lines_.empty() ? nullptr : lines_.front().of; }

 private:
  static constexpr int64_t kOfLine = 64 / sizeof(Number);
  struct alignas(64) Line {
    Number of[kOfLine];
  };
  std::vector<Line> lines_;
};

using Floats = Aligned<float>;

/// Scores [count, panel] of a block's rows with a panel's queries, and then the weights that come of them.
struct PanelWeights {
  explicit PanelWeights(int64_t panel) : of(kBlockRows * panel), keep(panel), factor(panel) {}
  Floats of;
  Floats keep;    ///< [panel]: what earlier sums must be multiplied by
  Floats factor;  ///< [panel]: what one of them counts, where they are whole numbers
};

template <typename Vector>
INLINE Vector load(const float* x) {
  Vector y;
  std::memcpy(&y, x, sizeof y);
  return y;
}

template <typename Vector>
INLINE void store(Vector x, float* to) {
  std::memcpy(to, &x, sizeof x);
}

}  // namespace windowkv
