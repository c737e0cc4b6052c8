#include "backend/backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <thread>

#include "backend/blas.h"
#include "backend/free_memory.h"
#include "windowkv/error.h"

namespace windowkv {

std::vector<ggml_backend_dev_t> usable_devices() {
  std::vector<ggml_backend_dev_t> devices;
  for (size_t i = 0; i < ggml_backend_dev_count(); ++i)
    if (auto* dev = ggml_backend_dev_get(i); ggml_backend_dev_type(dev) != GGML_BACKEND_DEVICE_TYPE_ACCEL)
      devices.push_back(dev);
  return devices;
}

namespace {

/// What a user can name.
std::vector<ggml_backend_dev_t> known_devices(const std::vector<ggml_backend_dev_t>& remote) {
  auto known = remote;
  const auto local = usable_devices();
  known.insert(known.end(), local.begin(), local.end());
  return known;
}

ggml_backend_dev_t find_device(std::string_view name, const std::vector<ggml_backend_dev_t>& known) {
  if (name == "cpu" || name == "none") return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  std::string names;
  for (auto* dev : known) {
    if (name == ggml_backend_dev_name(dev)) return dev;
    names += std::string(names.empty() ? "" : ", ") + ggml_backend_dev_name(dev);
  }
  throw Error(fmt::format("no device \"{}\"; ggml has: {}", name, names));
}

/// Servers first: a prompt's hidden states then come back over the network once.
std::vector<ggml_backend_dev_t> automatic_devices(const std::vector<ggml_backend_dev_t>& remote) {
  auto devices = remote;
  for (size_t i = 0; i < ggml_backend_dev_count(); ++i)
    if (auto* dev = ggml_backend_dev_get(i); ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_GPU)
      devices.push_back(dev);
  if (!devices.empty()) return devices;
  if (auto* dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_IGPU)) return {dev};
  return {ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU)};
}

std::vector<ggml_backend_dev_t> find_devices(const std::string& names,
                                             const std::vector<ggml_backend_dev_t>& remote) {
  if (names == "auto") return automatic_devices(remote);
  const auto known = known_devices(remote);
  std::vector<ggml_backend_dev_t> devices;
  for (size_t start = 0; start <= names.size();) {
    const size_t end = std::min(names.find(',', start), names.size());
    auto* dev = find_device(std::string_view(names).substr(start, end - start), known);
    if (std::ranges::find(devices, dev) != devices.end())
      throw Error(fmt::format("device {} is listed twice", ggml_backend_dev_name(dev)));
    devices.push_back(dev);
    start = end + 1;
  }
  const auto used = [&](ggml_backend_dev_t dev) { return std::ranges::find(devices, dev) != devices.end(); };
  if (!remote.empty() && std::ranges::none_of(remote, used))
    throw Error(fmt::format("\"{}\" names no device of the RPC servers; leave the servers out, or add {}",
                            names, ggml_backend_dev_name(remote.front())));
  return devices;
}

void set_threads(ggml_backend_t backend, int threads) {
  auto* reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend));
  auto set = reinterpret_cast<ggml_backend_set_n_threads_t>(
      ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads"));
  if (set != nullptr) set(backend, threads);
}

}  // namespace

void load_backends() {
  static const bool loaded = [] {
    capture_ggml_logs();
    // What the program has loaded itself is used as it is.
    if (ggml_backend_reg_count() > 0) return true;
    prefer_openmp_blas();
    ggml_backend_load_all();
    return true;
  }();
  (void)loaded;
}

Backends::Backends(const std::string& devices, int threads, bool blas, std::span<const std::string> rpc,
                   const std::function<void(const std::string& line)>& warning)
    : threads_(threads) {
  load_backends();
  auto* cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  if (cpu == nullptr)
    throw Error("ggml has no CPU backend; install libggml0 or set GGML_BACKEND_PATH to one");
  servers_ = connect_rpc(rpc);
  const auto chosen = find_devices(devices, servers_.devices);
  // Its scheduler takes 16, the CPU one of them.
  if (chosen.size() > 15) throw Error(fmt::format("{} devices; ggml works with up to 15", chosen.size()));
  auto start = [&](ggml_backend_dev_t dev) {
    const GgmlErrors errors;
    auto* backend = ggml_backend_dev_init(dev, nullptr);
    if (backend == nullptr)
      throw Error(
          fmt::format("device {} does not start{}", ggml_backend_dev_name(dev), errors.in_brackets()));
    owned_.emplace_back(backend);
    return backend;
  };
  auto* cpu_backend = start(cpu);
  for (auto* dev : chosen) {
    devices_.push_back(dev == cpu ? cpu_backend : start(dev));
    if (dev != cpu) all_.push_back(devices_.back());
  }
  all_.push_back(cpu_backend);
  keep_rpc_alive(servers_);
  runs_.resize(devices_.size());
  if (threads_ <= 0) threads_ = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  set_threads(cpu_backend, threads_);
  if (blas && cpu_alone())
    if (auto* dev = find_blas()) {
      if (const auto why_not = prepare_blas(threads_); why_not.empty()) {
        blas_ = start(dev);
        set_threads(blas_, threads_);
      } else if (warning) {
        warning(fmt::format("OpenBLAS is not used, so prompts are read more slowly: {}", why_not));
      }
    }
}

std::vector<ggml_backend_buffer_type_t> Backends::weight_buffer_types(ggml_backend_dev_t dev,
                                                                      bool repack) const {
  std::vector<ggml_backend_buffer_type_t> types;
  auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
      ggml_backend_dev_backend_reg(dev), "ggml_backend_dev_get_extra_bufts"));
  if (repack && extra != nullptr)
    if (auto* list = extra(dev))
      for (; *list != nullptr; ++list) types.push_back(*list);
  types.push_back(ggml_backend_dev_buffer_type(dev));
  return types;
}

void Backends::place_layers(int n_layer, std::span<const double> shares, int joined) {
  if (shares.size() > device_count())
    throw Error(fmt::format("the layers are split into {} shares, but there {} only {} device{}",
                            shares.size(), device_count() == 1 ? "is" : "are", device_count(),
                            device_count() == 1 ? "" : "s"));
  std::vector<double> parts(shares.begin(), shares.end());
  parts.resize(device_count(), 0.0);
  if (shares.empty()) {
    std::vector<int64_t> free;
    for (size_t d = 0; d < device_count(); ++d)
      // Where one device holds all, it need not be asked.
      free.push_back(device_count() == 1 ? 1 : free_memory(d));
    parts = shares_of(free);
  }
  layer_devices_ = split_layers(n_layer, parts);
  join_layers(layer_devices_, n_layer - joined);
  runs_ = runs_of(layer_devices_, device_count());
}

bool Backends::is_remote(size_t index) const {
  return std::ranges::find(servers_.devices, device(index)) != servers_.devices.end();
}

std::string Backends::name(size_t index) const {
  return fmt::format("{} ({})", ggml_backend_dev_name(device(index)),
                     ggml_backend_dev_description(device(index)));
}

int64_t Backends::free_memory(size_t index) const {
  if (is_cpu(index)) return free_system_memory();
  size_t free = 0;
  size_t total = 0;
  ggml_backend_dev_memory(device(index), &free, &total);
  return free_or_unknown(free, total);
}

}  // namespace windowkv
