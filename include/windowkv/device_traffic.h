#pragma once

#include <cstdint>

namespace windowkv {

/// Work that several devices computed together, and what was copied between them. All zero where only the
/// CPU is used.
struct DeviceTraffic {
  int64_t graphs = 0;  ///< computed
  int64_t splits = 0;  ///< parts of graphs, each on one device
  int64_t copies = 0;  ///< tensors that one device held and another needed
  int64_t bytes = 0;   ///< of the copies

  DeviceTraffic& operator+=(const DeviceTraffic& other) {
    graphs += other.graphs;
    splits += other.splits;
    copies += other.copies;
    bytes += other.bytes;
    return *this;
  }
  /// The difference from an earlier count.
  DeviceTraffic operator-(const DeviceTraffic& earlier) const {
    return {graphs - earlier.graphs, splits - earlier.splits, copies - earlier.copies, bytes - earlier.bytes};
  }
};

}  // namespace windowkv
