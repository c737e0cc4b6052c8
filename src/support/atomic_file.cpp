#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <filesystem>

#include "support/file.h"
#include "support/output_target.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

/// Temporary files, in memory that a signal handler may read at any time.
struct Unfinished {
  std::atomic<bool> taken = false;
  std::atomic<bool> there = false;
  char path[PATH_MAX] = "";
};
std::array<Unfinished, 16> unfinished;

void add_unfinished(const std::string& path) {
  if (path.size() >= PATH_MAX) return;
  for (auto& one : unfinished)
    if (!one.taken.exchange(true)) {
      std::ranges::copy(path, one.path);
      one.path[path.size()] = '\0';
      one.there = true;
      return;
    }
}

void forget_unfinished(const std::string& path) {
  for (auto& one : unfinished)
    if (one.there && path == one.path) {
      one.there = false;
      one.taken = false;
    }
}

/// Makes a file beside `path` whose name is short, whatever the path's is. Returns its descriptor, or -1.
int make_beside(const std::string& path, std::string& made) {
  const auto folder = std::filesystem::path(path).parent_path();
  for (int number = 0; number < 1000; ++number) {
    made = (folder / fmt::format(".windowkv-{}-{}.part", getpid(), number)).string();
    const int file = open(made.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file >= 0 || errno != EEXIST) return file;
  }
  return -1;
}

/// Whether all of it is on disk, or with the reader; else errno says why not.
bool write(std::FILE* file, const AtomicFile::Content& content) {
  int why = 0;
  content([&](const void* data, size_t size) {
    if (why == 0 && size > 0 && std::fwrite(data, 1, size, file) != size) why = errno;
  });
  if (why != 0) errno = why;
  return why == 0 && std::fflush(file) == 0 &&
         (fsync(fileno(file)) == 0 || errno == EINVAL);  // EINVAL: of a pipe or device
}

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

}  // namespace

void remove_unfinished_files() {
  for (const auto& one : unfinished)
    if (one.there) unlink(one.path);
}

AtomicFile::AtomicFile(const std::string& path, InPlace in_place) : path_(path), allowed_(in_place) {
  const auto target = OutputTarget::of(path);
  target_ = target.path;
  int file = -1;
  if (target.stream) {
    file = target.open_stream();
  } else {
    file = make_beside(target_, temporary_);
    if (file < 0 && allowed_ == InPlace::kWhereNeeded) {  // a file may be writable where its folder is not
      const int why = errno;
      temporary_.clear();
      file = open(target_.c_str(), O_WRONLY | O_CLOEXEC);
      in_place_ = file >= 0;
      errno = why;
    }
  }
  if (file < 0) fail();
  struct stat old {};
  if (!temporary_.empty() && stat(target_.c_str(), &old) == 0) fchmod(file, old.st_mode & 07777);
  add_unfinished(temporary_);
  file_ = fdopen(file, "wb");
}

AtomicFile::~AtomicFile() {
  if (file_ == nullptr) return;
  std::fclose(file_);
  if (temporary_.empty()) return;
  unlink(temporary_.c_str());
  forget_unfinished(temporary_);
}

void AtomicFile::fail() {
  throw Error(fmt::format("{}: cannot write: {}", path_, std::strerror(errno)));
}

void AtomicFile::commit(const std::string& content) {
  commit([&](const Write& write_piece) { write_piece(content.data(), content.size()); });
}

void AtomicFile::commit(const Content& content) {
  if (in_place_ && ftruncate(fileno(file_), 0) != 0) fail();
  if (!write(file_, content)) fail();
  if (temporary_.empty()) return;
  if (std::rename(temporary_.c_str(), target_.c_str()) != 0) {
    if (allowed_ == InPlace::kNever) fail();
    overwrite(content);
  }
  forget_unfinished(temporary_);
  std::fclose(file_);
  file_ = nullptr;
}

void AtomicFile::overwrite(const Content& content) {
  // What a container mounts as one file can be written and not replaced.
  const int why = errno;
  const std::unique_ptr<std::FILE, Close> target(std::fopen(target_.c_str(), "r+b"));
  const bool written = target && ftruncate(fileno(target.get()), 0) == 0 && write(target.get(), content);
  errno = why;
  if (!written) fail();
  unlink(temporary_.c_str());
}

std::unique_ptr<AtomicFile> open_output(const std::string& path) {
  return path.empty() ? nullptr : std::make_unique<AtomicFile>(path);
}

}  // namespace windowkv
