#pragma once

#include <ggml-backend.h>
#include <ggml-cpp.h>

#include <string>
#include <vector>

namespace windowkv {

/// The ggml devices a model runs on: one for the layers, and the CPU for what that one cannot do.
class Backends {
 public:
  /// `device` and `blas` as in ModelOptions. Throws Error for a device that is not there.
  Backends(const std::string& device, int threads, bool blas = true);

  ggml_backend_dev_t device() const { return ggml_backend_get_device(all_.front()); }
  ggml_backend_dev_t cpu_device() const { return ggml_backend_get_device(all_.back()); }
  ggml_backend_t primary() const { return all_.front(); }
  bool device_is_cpu() const { return all_.size() == 1; }
  /// In the scheduler's order: the layers' device first, the CPU last.
  const std::vector<ggml_backend_t>& all() const { return all_; }
  /// What multiplies large matrices faster than the CPU backend does; null where nothing does.
  ggml_backend_t blas() const { return blas_.get(); }

  /// Buffer types a weight may lie in, fastest kernels first; the device's own comes last.
  std::vector<ggml_backend_buffer_type_t> weight_buffer_types(ggml_backend_dev_t device) const;

  /// Bytes that can still be allocated on the layers' device; for the CPU, what the system can give without
  /// swapping.
  int64_t free_memory() const;

 private:
  std::vector<ggml_backend_ptr> owned_;
  std::vector<ggml_backend_t> all_;
  ggml_backend_ptr blas_;
};

/// Loads ggml's backends where they are not yet; libllama needs them too. Idempotent.
void load_backends();

/// First line ggml or libllama logged as an error since the previous call; "" if none. Their logs are kept
/// off stderr.
std::string take_ggml_error();
/// Starts keeping those lines; idempotent.
void capture_ggml_logs();

}  // namespace windowkv
