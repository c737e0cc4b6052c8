#include "eval/ruler/fit.h"

#include <algorithm>
#include <cmath>

namespace windowkv::eval::ruler {

std::optional<int64_t> largest_fitting(int64_t low, int64_t high, int64_t limit,
                                       const std::function<int64_t(int64_t)>& cost) {
  constexpr int kInterpolations = 12;  // then halving, for costs that grow unevenly
  int64_t fits = low, fits_cost = cost(low), exceeds = high + 1;
  if (fits_cost > limit) return std::nullopt;
  double slope = static_cast<double>(std::max<int64_t>(1, fits_cost));  // cautious, until two costs are known
  for (int step = 0; exceeds - fits > 1; ++step) {
    // Far leaps are left out while nothing is known to be too much: a number may stand for a long text.
    const auto ahead = static_cast<double>(limit - fits_cost) / slope;
    const auto leap = std::min(ahead, 4.0 * static_cast<double>(fits) + 64);
    int64_t probe = fits + std::max<int64_t>(1, std::llround(std::floor(leap)));
    if (step >= kInterpolations && exceeds <= high) probe = fits + (exceeds - fits) / 2;
    probe = std::clamp(probe, fits + 1, exceeds - 1);
    const int64_t probe_cost = cost(probe);
    slope = std::max(1e-3, static_cast<double>(probe_cost - fits_cost) / static_cast<double>(probe - fits));
    if (probe_cost <= limit) {
      fits = probe;
      fits_cost = probe_cost;
    } else {
      exceeds = probe;
    }
  }
  return fits;
}

}  // namespace windowkv::eval::ruler
