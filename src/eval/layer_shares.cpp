#include "eval/layer_shares.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "eval/stats.h"

namespace windowkv::eval {

namespace {

constexpr double kLowest = kCalibrationFactors[0];
constexpr double kHighest = kCalibrationFactors[std::size(kCalibrationFactors) - 1];

/// What KL falls by whenever the budget doubles.
double slope(std::span<const double> kl) {
  constexpr size_t kCount = std::size(kCalibrationFactors);
  double mean_x = 0;
  for (const double factor : kCalibrationFactors) mean_x += std::log2(factor) / kCount;
  double covariance = 0, variance = 0;
  for (size_t f = 0; f < kCount; ++f) {
    const double x = std::log2(kCalibrationFactors[f]) - mean_x;
    covariance += x * kl[f];
    variance += x * x;
  }
  return -covariance / variance;
}

/// Numbers in proportion to `weights`, or to what is above 0 of them, with the mean 1 and within the factors.
std::vector<double> proportional(const std::vector<double>& weights) {
  const auto n = static_cast<double>(weights.size());
  auto at = [&](double scale, size_t i) { return std::clamp(scale * weights[i], kLowest, kHighest); };
  auto total = [&](double scale) {
    double sum = 0;
    for (size_t i = 0; i < weights.size(); ++i) sum += at(scale, i);
    return sum;
  };
  const double most = *std::max_element(weights.begin(), weights.end());
  double low = 0, high = most > 0 ? kHighest / most : 0;
  while (high > 0 && total(high) < n && high < 1e300) high *= 2;
  // Where too few weights are above 0 to use up the budget, every layer has the same.
  if (!(high > 0) || total(high) < n) return std::vector<double>(weights.size(), 1.0);
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2;
    (total(middle) < n ? low : high) = middle;
  }
  std::vector<double> out(weights.size());
  for (size_t i = 0; i < out.size(); ++i) out[i] = at(high, i);
  const double mean = std::accumulate(out.begin(), out.end(), 0.0) / n;
  for (auto& x : out) x = std::clamp(x / mean, kLowest, kHighest);
  return out;
}

/// Each layer's slope, the mean over the prompts but `left_out`.
std::vector<double> mean_slopes(const std::vector<std::vector<double>>& slopes, size_t left_out) {
  std::vector<double> sum(slopes.front().size(), 0.0);
  for (size_t p = 0; p < slopes.size(); ++p)
    for (size_t l = 0; l < sum.size() && p != left_out; ++l) sum[l] += slopes[p][l];
  return sum;
}

/// Of each share, by the jackknife: how much it changes when one of the prompts is left out.
std::vector<double> variances(const std::vector<std::vector<double>>& slopes) {
  const size_t prompts = slopes.size(), layers = slopes.front().size();
  std::vector<double> out(layers, 0.0);
  if (prompts < 2) return out;
  std::vector<std::vector<double>> without;
  without.reserve(prompts);
  for (size_t p = 0; p < prompts; ++p) without.push_back(proportional(mean_slopes(slopes, p)));
  for (size_t l = 0; l < layers; ++l) {
    double centre = 0;
    for (const auto& shares : without) centre += shares[l] / static_cast<double>(prompts);
    for (const auto& shares : without) out[l] += (shares[l] - centre) * (shares[l] - centre);
    out[l] *= static_cast<double>(prompts - 1) / static_cast<double>(prompts);
  }
  return out;
}

}  // namespace

std::vector<double> share_out(std::span<const LayerKl> by_prompt) {
  std::vector<std::vector<double>> slopes;
  slopes.reserve(by_prompt.size());
  for (const auto& prompt : by_prompt) {
    auto& of_prompt = slopes.emplace_back();
    for (const auto& layer : prompt) of_prompt.push_back(slope(layer));
  }
  auto shares = proportional(mean_slopes(slopes, slopes.size()));
  const auto noise = variances(slopes);
  double spread = 0;
  for (const double share : shares) spread += (share - 1) * (share - 1) / static_cast<double>(shares.size());
  const double signal = std::max(0.0, spread - mean(noise));
  for (size_t l = 0; l < shares.size(); ++l)
    if (noise[l] > 0) shares[l] = 1 + (shares[l] - 1) * signal / (signal + noise[l]);
  return proportional(shares);
}

}  // namespace windowkv::eval
