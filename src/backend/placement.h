#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace windowkv {

/// Layers `first` to `last`.
struct LayerRun {
  int first = 0;
  int last = -1;

  int count() const { return last - first + 1; }
  bool operator==(const LayerRun&) const = default;
};

/// "layer 3", "layers 0-5".
std::string to_string(const LayerRun& run);

/// The device of each layer, 0 to shares.size() - 1: one run of layers a device, in the devices' order, as
/// long as its share of the shares' sum; a layer goes where its middle falls, so a small share may get none.
/// Throws Error for shares that are negative, not finite or all zero.
std::vector<size_t> split_layers(int n_layer, std::span<const double> shares);

/// Puts the layers from `first` on, which read each other's K and V, on the device that has the middle one.
void join_layers(std::vector<size_t>& device_of_layer, int first);

/// Shares as the devices' free memory; one that does not know its own (below 0) gets the mean of those that
/// do.
std::vector<double> shares_of(std::span<const int64_t> free);

/// The run of each of `devices` devices, one without layers an empty run.
std::vector<LayerRun> runs_of(std::span<const size_t> device_of_layer, size_t devices);

}  // namespace windowkv
