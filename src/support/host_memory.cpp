#include "support/host_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "support/descriptor.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

/// A new file that no name leads to; −1 with errno where that fails.
int make_nameless(const std::string& folder) {
  const int fd = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)) return fd;
  // Not every file system has those.
  std::string path = folder + "/windowkv-XXXXXX";
  const int named = mkostemp(path.data(), O_CLOEXEC);
  if (named >= 0) unlink(path.c_str());
  return named;
}

}  // namespace

std::string temporary_folder() {
  const char* folder = std::getenv("TMPDIR");
  return folder != nullptr && *folder != '\0' ? folder : "/tmp";
}

HostMemory HostMemory::anonymous(size_t bytes) {
  if (bytes == 0) return {};
  void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) throw Error(fmt::format("out of memory: {} bytes are not to be had", bytes));
  return {static_cast<uint8_t*>(map), bytes, true};
}

HostMemory HostMemory::temporary_file(size_t bytes) {
  if (bytes == 0) return {};
  const auto folder = temporary_folder();
  const Descriptor file(make_nameless(folder));
  const auto fail = [&](int why) {
    throw Error(fmt::format("{}: no temporary file of {} bytes: {}; set TMPDIR to {}", folder, bytes,
                            std::strerror(why),
                            why == ENOSPC || why == EDQUOT || why == EFBIG ? "a folder on a larger disk"
                                                                           : "a folder that can be written"));
  };
  if (file.get() < 0) fail(errno);
  // Without the space, the first write to a page would end the process.
  if (const int why = posix_fallocate(file.get(), 0, static_cast<off_t>(bytes)); why != 0) fail(why);
  void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (map == MAP_FAILED) fail(errno);
  return {static_cast<uint8_t*>(map), bytes, false};
}

HostMemory HostMemory::of_file(const std::string& path) {
  // O_NONBLOCK: a pipe that nobody writes into would never open.
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info {};
  if (file.get() < 0 || fstat(file.get(), &info) != 0)
    throw Error(fmt::format("{}: cannot open: {}", path, std::strerror(errno)));
  if (!S_ISREG(info.st_mode)) throw Error(fmt::format("{}: is not a file", path));
  if (info.st_size == 0) return {};
  const auto size = static_cast<size_t>(info.st_size);
  void* map = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (map == MAP_FAILED) throw Error(fmt::format("{}: cannot read: {}", path, std::strerror(errno)));
  return {static_cast<uint8_t*>(map), size, false};
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) munmap(data_, size_);
}

HostMemory::HostMemory(HostMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      anonymous_(other.anonymous_) {}

HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(anonymous_, other.anonymous_);
  return *this;
}

}  // namespace windowkv
