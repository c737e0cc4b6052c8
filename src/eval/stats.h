#pragma once

#include <cstdint>
#include <span>

namespace windowkv::eval {

/// 0 for no values.
double mean(std::span<const double> values);

/// A mean and its 95 % interval.
struct Estimate {
  double mean = 0;
  double low = 0;
  double high = 0;
};

/// Percentile bootstrap of the mean (Efron 1979): 2,000 resamples of the values with replacement, the 2.5th
/// and 97.5th percentile of their means. The same seed gives the same interval. Zeros for no values.
Estimate bootstrap_mean(std::span<const double> values, uint64_t seed = 1);

/// The same of the paired differences a[i] − b[i]; the spans are equally long.
Estimate bootstrap_difference(std::span<const double> a, std::span<const double> b, uint64_t seed = 1);

}  // namespace windowkv::eval
