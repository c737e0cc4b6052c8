#include "eval/stats.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

namespace windowkv::eval {

double mean(std::span<const double> values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

Estimate bootstrap_mean(std::span<const double> values, uint64_t seed) {
  if (values.empty()) return {};
  constexpr size_t kResamples = 2000;
  const auto n = values.size();
  // mt19937_64 and a remainder, not a standard distribution: those differ between standard libraries.
  std::mt19937_64 random(seed);
  std::vector<double> means(kResamples);
  for (auto& resampled : means) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += values[random() % n];
    resampled = sum / static_cast<double>(n);
  }
  std::sort(means.begin(), means.end());
  return {mean(values), means[kResamples / 40], means[kResamples - 1 - kResamples / 40]};
}

Estimate bootstrap_difference(std::span<const double> a, std::span<const double> b, uint64_t seed) {
  std::vector<double> differences(a.begin(), a.end());
  for (size_t i = 0; i < differences.size(); ++i) differences[i] -= b[i];
  return bootstrap_mean(differences, seed);
}

}  // namespace windowkv::eval
