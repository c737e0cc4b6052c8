#include "backend/backend.h"

#include <llama.h>

#include <fstream>
#include <mutex>
#include <thread>
#include <utility>

#include "backend/blas.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

std::mutex log_mutex;
std::string first_error;

void keep_errors(ggml_log_level level, const char* text, void*) {
  if (level != GGML_LOG_LEVEL_ERROR) return;
  std::string line(text);
  while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.pop_back();
  if (line.empty()) return;
  std::scoped_lock lock(log_mutex);
  // The first is the cause, what follows its consequences.
  if (first_error.empty()) first_error = line;
}

ggml_backend_dev_t find_device(const std::string& name) {
  if (name == "cpu") return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  if (name != "auto") {
    auto* dev = ggml_backend_dev_by_name(name.c_str());
    if (dev != nullptr && ggml_backend_dev_type(dev) != GGML_BACKEND_DEVICE_TYPE_ACCEL) return dev;
    std::string known;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
      auto* other = ggml_backend_dev_get(i);
      if (ggml_backend_dev_type(other) == GGML_BACKEND_DEVICE_TYPE_ACCEL) continue;
      known += std::string(known.empty() ? "" : ", ") + ggml_backend_dev_name(other);
    }
    throw Error("no device \"" + name + "\"; ggml has: " + known);
  }
  for (auto type : {GGML_BACKEND_DEVICE_TYPE_GPU, GGML_BACKEND_DEVICE_TYPE_IGPU})
    if (auto* dev = ggml_backend_dev_by_type(type)) return dev;
  return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
}

int64_t system_free_memory() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  for (std::string rest; meminfo >> key >> kib && std::getline(meminfo, rest);)
    if (key == "MemAvailable:") return kib * 1024;
  return -1;
}

}  // namespace

void load_backends() {
  static const bool loaded = [] {
    capture_ggml_logs();
    prefer_openmp_blas();
    ggml_backend_load_all();
    return true;
  }();
  (void)loaded;
}

void capture_ggml_logs() {
  ggml_log_set(keep_errors, nullptr);
  llama_log_set(keep_errors, nullptr);
}

std::string take_ggml_error() {
  std::scoped_lock lock(log_mutex);
  return std::exchange(first_error, {});
}

Backends::Backends(const std::string& device, int threads, bool blas) {
  load_backends();
  auto* cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  if (cpu == nullptr)
    throw Error("ggml has no CPU backend; install libggml0 or set GGML_BACKEND_PATH to one");
  auto* main = find_device(device);
  for (auto* dev : main == cpu ? std::vector{cpu} : std::vector{main, cpu}) {
    auto* backend = ggml_backend_dev_init(dev, nullptr);
    if (backend == nullptr)
      throw Error(std::string("device ") + ggml_backend_dev_name(dev) +
                  " does not start: " + take_ggml_error());
    owned_.emplace_back(backend);
    all_.push_back(backend);
  }
  if (threads <= 0) threads = std::max(1u, std::thread::hardware_concurrency());
  auto set_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
      ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), "ggml_backend_set_n_threads"));
  if (set_threads != nullptr) set_threads(all_.back(), threads);
  if (blas && device_is_cpu())
    if (auto* dev = find_blas()) blas_.reset(start_blas(dev, threads));
}

std::vector<ggml_backend_buffer_type_t> Backends::weight_buffer_types(ggml_backend_dev_t dev) const {
  std::vector<ggml_backend_buffer_type_t> types;
  auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
      ggml_backend_dev_backend_reg(dev), "ggml_backend_dev_get_extra_bufts"));
  if (extra != nullptr)
    if (auto* list = extra(dev))
      for (; *list != nullptr; ++list) types.push_back(*list);
  types.push_back(ggml_backend_dev_buffer_type(dev));
  return types;
}

int64_t Backends::free_memory() const {
  if (device_is_cpu()) return system_free_memory();
  size_t free = 0;
  size_t total = 0;
  ggml_backend_dev_memory(device(), &free, &total);
  return static_cast<int64_t>(free);
}

}  // namespace windowkv
