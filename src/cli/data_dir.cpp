#include "cli/data_dir.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "windowkv/error.h"

namespace windowkv::cli {

namespace fs = std::filesystem;

namespace {

std::vector<fs::path> data_folders() {
  if (const char* given = std::getenv("WINDOWKV_DATA"); given != nullptr && *given != '\0') return {given};
  std::error_code ignored;
  const auto folder = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  return {(folder / WINDOWKV_DATA_FROM_BIN).lexically_normal(),
          folder / "data"};  // a link that CMake makes in the build tree
}

}  // namespace

fs::path find_data(const std::string& name, const std::string& instead) {
  std::vector<std::string> places;
  for (const auto& folder : data_folders()) {
    auto place = folder / name;
    std::error_code ignored;
    if (fs::exists(place, ignored)) return place;
    places.push_back(place.string());
  }
  throw Error(fmt::format("there is no {} at {}; {}, or set WINDOWKV_DATA to windowkv's data folder", name,
                          fmt::join(places, " or "), instead));
}

}  // namespace windowkv::cli
