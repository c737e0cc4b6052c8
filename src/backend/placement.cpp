#include "backend/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "windowkv/error.h"

namespace windowkv {

std::string to_string(const LayerRun& run) {
  return run.count() == 1 ? fmt::format("layer {}", run.first)
                          : fmt::format("layers {}-{}", run.first, run.last);
}

std::vector<size_t> split_layers(int n_layer, std::span<const double> shares) {
  double sum = 0;
  for (const double share : shares) {
    if (!std::isfinite(share) || share < 0)
      throw Error(fmt::format("a device's share of the layers is {}; it must be 0 or more", share));
    sum += share;
  }
  if (!(sum > 0)) throw Error("no device has a share of the layers above 0");
  std::vector<size_t> out;
  size_t device = 0;
  double end = shares[0];
  for (int layer = 0; layer < n_layer; ++layer) {
    const double middle = (layer + 0.5) / n_layer * sum;
    while (middle >= end && device + 1 < shares.size()) end += shares[++device];
    out.push_back(device);
  }
  return out;
}

void join_layers(std::vector<size_t>& device_of_layer, int first) {
  const auto begin = device_of_layer.begin() + first;
  if (begin == device_of_layer.end()) return;
  std::fill(begin, device_of_layer.end(), begin[(device_of_layer.end() - begin) / 2]);
}

std::vector<double> shares_of(std::span<const int64_t> free) {
  double sum = 0;
  double known = 0;
  for (const int64_t bytes : free)
    if (bytes >= 0) sum += static_cast<double>(bytes), ++known;
  const double mean = known > 0 ? sum / known : 1;
  std::vector<double> shares;
  for (const int64_t bytes : free)
    shares.push_back(std::max(1.0, bytes >= 0 ? static_cast<double>(bytes) : mean));
  return shares;
}

std::vector<LayerRun> runs_of(std::span<const size_t> device_of_layer, size_t devices) {
  std::vector<LayerRun> runs(devices);
  for (size_t layer = 0; layer < device_of_layer.size(); ++layer) {
    auto& run = runs[device_of_layer[layer]];
    if (run.count() == 0) run.first = static_cast<int>(layer);
    run.last = static_cast<int>(layer);
  }
  return runs;
}

}  // namespace windowkv
