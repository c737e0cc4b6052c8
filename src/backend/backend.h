#pragma once

#include <ggml-backend.h>
#include <ggml-cpp.h>

#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "backend/log.h"
#include "backend/placement.h"
#include "backend/rpc.h"

namespace windowkv {

/// The ggml devices a model runs on: those that hold layers, and the CPU for what they cannot do.
class Backends {
 public:
  /// `devices`, `blas` and `rpc` as in ModelOptions. Throws Error for a device that is not there and a server
  /// that does not answer.
  Backends(const std::string& devices, int threads, bool blas = true, std::span<const std::string> rpc = {},
           const std::function<void(const std::string& line)>& warning = nullptr);

  /// Lays a model's layers over the devices (split_layers), so many of the last on one (join_layers); without
  /// shares by the memory that each has free. Until then all are the first device's. Throws Error for more
  /// shares than devices.
  void place_layers(int n_layer, std::span<const double> shares, int joined = 0);

  size_t device_count() const { return devices_.size(); }
  ggml_backend_t backend(size_t device) const { return devices_[device]; }
  ggml_backend_dev_t device(size_t device) const { return ggml_backend_get_device(devices_[device]); }
  ggml_backend_dev_t cpu_device() const { return ggml_backend_get_device(all_.back()); }
  bool is_cpu(size_t device) const { return devices_[device] == all_.back(); }
  /// Whether there is no other device.
  bool cpu_alone() const { return all_.size() == 1; }
  /// Whether it is an RPC server's.
  bool is_remote(size_t device) const;
  /// In the scheduler's order: the CPU last, whether it holds layers or not.
  const std::vector<ggml_backend_t>& all() const { return all_; }
  /// Held while graphs are computed: backends keep buffers of their own for that.
  std::recursive_mutex& computing() const { return computing_; }
  /// What multiplies large matrices faster than the CPU backend does; null where nothing does.
  ggml_backend_t blas() const { return blas_; }
  /// Of the CPU.
  int threads() const { return threads_; }

  size_t device_of(int layer) const {
    return layer_devices_.empty() ? 0 : layer_devices_[static_cast<size_t>(layer)];
  }
  /// By device; empty runs where a device has none.
  const std::vector<LayerRun>& layer_runs() const { return runs_; }
  /// "RPC0 (127.0.0.1:50052)".
  std::string name(size_t device) const;

  /// Buffer types a weight may lie in, fastest kernels first; the device's own comes last, and alone where
  /// weights are not to be repacked.
  std::vector<ggml_backend_buffer_type_t> weight_buffer_types(ggml_backend_dev_t device, bool repack) const;

  /// Bytes of which the addresses that a device's kernels read from are multiples, a power of two; the CPU's
  /// read from any.
  size_t alignment(size_t device) const {
    return is_cpu(device) ? 1 : ggml_backend_get_alignment(devices_[device]);
  }
  /// Bytes that can still be allocated on a device; for the CPU, what the system and this process's control
  /// groups can give without swapping. Below 0: not known.
  int64_t free_memory(size_t device) const;

 private:
  RpcServers servers_;  // outlives the backends
  std::vector<ggml_backend_ptr> owned_;
  std::vector<ggml_backend_t> devices_;
  std::vector<ggml_backend_t> all_;
  std::vector<size_t> layer_devices_;
  std::vector<LayerRun> runs_;
  ggml_backend_t blas_ = nullptr;
  int threads_;
  mutable std::recursive_mutex computing_;
};

/// What a driver says is free; below 0, not known, where it says that there is no memory at all.
inline int64_t free_or_unknown(size_t free, size_t total) {
  return total == 0 ? -1 : static_cast<int64_t>(free);
}

/// Loads ggml's backends where they are not yet; libllama needs them too. Idempotent.
void load_backends();

/// This machine's devices that can hold layers: all of ggml's but the CPU's helpers.
std::vector<ggml_backend_dev_t> usable_devices();

}  // namespace windowkv
