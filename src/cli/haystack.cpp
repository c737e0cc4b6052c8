#include "cli/haystack.h"

#include <filesystem>
#include <set>

#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

std::string default_haystack() {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const auto command = fs::read_symlink("/proc/self/exe", ignored);
  for (const auto& folder :
       {command.parent_path().parent_path() / "share" / "windowkv" / "haystack", fs::path("data/haystack")})
    if (fs::is_directory(folder, ignored)) return folder.string();
  throw Error("no haystack; give text to hide the needle in with --haystack FILE or FOLDER");
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
