#include "cli/devices.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

#include "backend/backend.h"
#include "cli/output.h"

namespace windowkv::cli {

std::string devices_text() {
  load_backends();
  std::vector<std::vector<std::string>> rows;
  for (auto* device : usable_devices()) {
    size_t free = 0;
    size_t total = 0;
    ggml_backend_dev_memory(device, &free, &total);
    auto memory = total == 0 ? "memory unknown"
                             : fmt::format("{}, {} free", bytes_text(static_cast<int64_t>(total)),
                                           bytes_text(static_cast<int64_t>(free)));
    rows.push_back({ggml_backend_dev_name(device), ggml_backend_dev_description(device), std::move(memory)});
  }
  return table_text(rows);
}

std::string strays_text(const Engine& engine) {
  const auto strays = engine.stray_operations();
  if (strays.empty()) return "";
  return fmt::format("on the CPU  {}, which the device does not have\n", fmt::join(strays, ", "));
}

}  // namespace windowkv::cli
