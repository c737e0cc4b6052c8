#pragma once

#include <cstdint>

namespace windowkv {

/// What was computed by several devices together, and copied between them. Nothing is counted where there is
/// only the CPU.
struct DeviceTraffic {
  int64_t graphs = 0;  ///< computed
  int64_t splits = 0;  ///< parts of them, each on one device
  int64_t copies = 0;  ///< tensors that one device held and another needed
  int64_t bytes = 0;   ///< of those

  DeviceTraffic& operator+=(const DeviceTraffic& other) {
    graphs += other.graphs;
    splits += other.splits;
    copies += other.copies;
    bytes += other.bytes;
    return *this;
  }
  /// Since an earlier count.
  DeviceTraffic operator-(const DeviceTraffic& earlier) const {
    return {graphs - earlier.graphs, splits - earlier.splits, copies - earlier.copies, bytes - earlier.bytes};
  }
};

}  // namespace windowkv
