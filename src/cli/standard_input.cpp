#include "cli/standard_input.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "cli/output.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

constexpr int kPatience = 5000;  // milliseconds

bool is_piped() {
  struct stat status {};
  if (fstat(STDIN_FILENO, &status) != 0) return false;
  if (S_ISREG(status.st_mode)) return lseek(STDIN_FILENO, 0, SEEK_CUR) == 0;
  return S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode);
}

/// Whether there is something to read, an end included, within the time (below 0: any time).
bool wait_for_input(int milliseconds) {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  int ready = 0;
  do ready = poll(&input, 1, milliseconds);
  while (ready < 0 && errno == EINTR);
  return ready != 0;
}

}  // namespace

std::optional<std::string> piped_input(bool optional) {
  if (!is_piped()) return std::nullopt;
  std::string text;
  bool told = false;
  for (char buffer[1 << 16];;) {
    if (!told && !wait_for_input(kPatience)) {
      if (optional && text.empty()) {
        warn(
            fmt::format("nothing arrived on standard input in {} seconds; continuing without it "
                        "(-f - waits; </dev/null skips the wait)",
                        kPatience / 1000));
        return std::nullopt;
      }
      tell("windowkv: waiting for the end of standard input\n");
      told = true;
    }
    const auto got = read(STDIN_FILENO, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error(fmt::format("standard input: cannot read: {}", std::strerror(errno)));
    if (got == 0) return text;
    text.append(buffer, static_cast<size_t>(got));
    check_stream_size(text.size(), "standard input");
  }
}

}  // namespace windowkv::cli
