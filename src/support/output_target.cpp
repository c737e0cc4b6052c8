#include "support/output_target.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <optional>

#include "windowkv/error.h"

namespace windowkv {

namespace fs = std::filesystem;

namespace {

[[noreturn]] void refuse(const std::string& path, const char* why) {
  throw Error(fmt::format("{}: cannot write: {}", path, why));
}

/// The N of /dev/fd/N and what else leads to this process's descriptors.
std::optional<int> descriptor_in(const fs::path& path) {
  std::error_code ignored;
  if (fs::canonical(path.parent_path(), ignored) != fmt::format("/proc/{}/fd", getpid())) return std::nullopt;
  const auto name = path.filename().string();
  int number = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  return error == std::errc() && end == name.data() + name.size() ? std::optional(number) : std::nullopt;
}

}  // namespace

OutputTarget OutputTarget::of(const std::string& given) {
  constexpr int kMostLinks = 40;  // as the kernel has it
  fs::path path = given;
  std::error_code ignored;
  for (int links = 0;; ++links) {
    if (const auto descriptor = descriptor_in(path)) return {path.string(), true, *descriptor};
    if (!fs::is_symlink(path, ignored)) break;
    if (links == kMostLinks) refuse(given, std::strerror(ELOOP));
    const auto target = fs::read_symlink(path, ignored);
    path = target.is_absolute() ? target : path.parent_path() / target;
  }
  const auto status = fs::status(path, ignored);
  if (fs::is_directory(status)) refuse(given, "it is a folder");
  return {path.string(), fs::exists(status) && !fs::is_regular_file(status)};
}

int OutputTarget::open_stream() const {
  if (descriptor >= 0) {
    const int copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) refuse(path, std::strerror(errno));
    return copy;
  }
  // A FIFO that nobody reads yet can only be opened once somebody does.
  constexpr int kTries = 100, kPauseMs = 100;
  const bool fifo = fs::is_fifo(path);
  for (int tries = 0;; ++tries) {
    const int opened = open(path.c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (opened >= 0) {
      fcntl(opened, F_SETFL, fcntl(opened, F_GETFL) & ~O_NONBLOCK);
      return opened;
    }
    if (errno != ENXIO || !fifo) refuse(path, std::strerror(errno));
    if (tries == kTries) refuse(path, "nothing is reading this FIFO; start the reader first");
    if (poll(nullptr, 0, kPauseMs) < 0 && errno == EINTR) throw Cancelled();
  }
}

}  // namespace windowkv
