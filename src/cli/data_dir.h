#pragma once

#include <filesystem>

namespace windowkv::cli {

/// A file or folder of what windowkv comes with, such as "haystack". It is looked for in the folder
/// that WINDOWKV_DATA names, where that is set; else where `cmake --install` puts data beside the command,
/// and in the build tree that the command lies in, however it was started. Throws Error, which lists the
/// places, where it is in none of them; `instead` says what to do then.
std::filesystem::path find_data(const std::string& name, const std::string& instead);

}  // namespace windowkv::cli
