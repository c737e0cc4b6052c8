#pragma once

#include <cstdint>
#include <filesystem>

namespace windowkv {

/// Bytes of memory that this process can still take without swapping: what the system has, or what is left to
/// its control group or to one above it, whichever is least. Memory of files that were read counts as free.
/// Below 0: not known. `root`: where /proc and /sys are looked for.
int64_t free_system_memory(const std::filesystem::path& root = "/");

}  // namespace windowkv
