#include "input.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace windowkv::fuzz {

namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() : path_((fs::temp_directory_path() / "windowkv-fuzz-XXXXXX").string()) {
    require(mkdtemp(path_.data()) != nullptr, "no temporary folder");
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

InputFile::InputFile(const std::string& name) {
  static const Folder folder;
  path_ = folder.path() + "/" + name;
}

const std::string& InputFile::fill(std::string_view content) const {
  const int file = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  require(file >= 0 && write(file, content.data(), content.size()) == static_cast<ssize_t>(content.size()),
          "cannot write the input file");
  close(file);
  return path_;
}

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

}  // namespace windowkv::fuzz
