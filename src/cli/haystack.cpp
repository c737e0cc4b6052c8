#include "cli/haystack.h"

#include <filesystem>
#include <set>

#include "cli/data_dir.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

std::string default_haystack() {
  return find_data("haystack", "give text to hide the needles in with --haystack FILE|FOLDER").string();
}

std::string read_haystack(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return read_text_file(path);
  std::set<std::string> files;
  for (const auto& entry : fs::directory_iterator(path))
    if (entry.is_regular_file() && entry.path().extension() == ".txt") files.insert(entry.path().string());
  if (files.empty()) throw Error(path + ": no .txt file in the folder of --haystack");
  std::string text;
  for (const auto& file : files) text += (text.empty() ? "" : "\n\n") + read_text_file(file);
  return text;
}

}  // namespace windowkv::cli
