#include "backend/free_memory.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace windowkv {

namespace {

namespace fs = std::filesystem;

/// The number a file begins with; nullopt where there is none: no such file, or "max".
std::optional<int64_t> number_in(const fs::path& file) {
  int64_t value = 0;
  if (std::ifstream in(file); in >> value) return value;
  return std::nullopt;
}

/// The number after `key` in a file of lines "key number".
std::optional<int64_t> number_after(const fs::path& file, const std::string& key) {
  std::ifstream in(file);
  std::string word;
  int64_t value = 0;
  for (std::string rest; in >> word >> value && std::getline(in, rest);)
    if (word == key) return value;
  return std::nullopt;
}

/// The files of one version of control groups.
struct Version {
  const char* limit;
  const char* usage;
  const char* reclaimable;  ///< in memory.stat
};
constexpr Version kV1 = {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};
constexpr Version kV2 = {"memory.max", "memory.current", "inactive_file"};

/// The least that is left to a group or one above it.
std::optional<int64_t> left_in(const fs::path& mount, const std::string& group, const Version& version) {
  std::optional<int64_t> least;
  // A container may see its own group as the mount itself, though it is told of a path from further up.
  for (auto path = fs::path(group).relative_path();; path = path.parent_path()) {
    const auto folder = mount / path;
    const auto limit = number_in(folder / version.limit);
    const auto usage = number_in(folder / version.usage);
    if (limit && usage) {
      const int64_t files = number_after(folder / "memory.stat", version.reclaimable).value_or(0);
      const int64_t left = std::max<int64_t>(0, *limit - std::max<int64_t>(0, *usage - files));
      least = std::min(least.value_or(left), left);
    }
    if (path.empty()) return least;
  }
}

/// Of the memory controller's lines in /proc/self/cgroup: "4:memory:/path" of version 1, "0::/path" of 2.
std::optional<int64_t> left_in_groups(const fs::path& root) {
  std::ifstream in(root / "proc/self/cgroup");
  std::optional<int64_t> least;
  auto consider = [&](std::optional<int64_t> left) {
    if (left) least = std::min(least.value_or(*left), *left);
  };
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    std::string number, controllers, group;
    std::getline(std::getline(std::getline(fields, number, ':'), controllers, ':'), group);
    if (controllers.empty()) consider(left_in(root / "sys/fs/cgroup", group, kV2));
    if (("," + controllers + ",").find(",memory,") != std::string::npos)
      consider(left_in(root / "sys/fs/cgroup/memory", group, kV1));
  }
  return least;
}

}  // namespace

int64_t free_system_memory(const fs::path& root) {
  const auto kib = number_after(root / "proc/meminfo", "MemAvailable:");
  const auto left = left_in_groups(root);
  if (!kib) return left.value_or(-1);
  return std::min(*kib * 1024, left.value_or(INT64_MAX));
}

}  // namespace windowkv
