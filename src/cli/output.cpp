#include "cli/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

int64_t now_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

std::string bytes_text(int64_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(units); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, units[unit]);
}

std::string table_text(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) {
      if (i == widths.size()) widths.push_back(0);
      widths[i] = std::max(widths[i], row[i].size());
    }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i)
      line += i == 0 ? fmt::format("{:<{}}", row[i], widths[i]) : fmt::format("  {:>{}}", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    if (errno == EPIPE) throw ExitWith{kClosedPipeExit};  // as `head` does to us: no fault of anyone
    throw Error(fmt::format("cannot write to standard output: {}", std::strerror(errno)));
  }
}

void tell(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
}

void secure_standard_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    // Each opens as the lowest number that is free, its own. Standard output for reading: writes fail.
    if (fcntl(stream, F_GETFD) < 0) open("/dev/null", stream == STDERR_FILENO ? O_WRONLY : O_RDONLY);
  std::signal(SIGPIPE, SIG_IGN);
}

void warn(const std::string& text) {
  tell(fmt::format("windowkv: warning: {}\n", text));
}

Progress::Progress(std::string what)
    : what_(std::move(what)),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_ms_(now_ms()),
      last_ms_(start_ms_) {}

void Progress::update(int64_t done, int64_t total) {
  const int64_t now = now_ms();
  const int64_t step = terminal_ ? 100 : 5000;
  if (now - start_ms_ < 1000 || now - last_ms_ < step || done >= total) return;
  last_ms_ = now;
  const double share = static_cast<double>(done) / static_cast<double>(total);
  const double left = static_cast<double>(now - start_ms_) * (1 - share) / share / 1000;
  if (terminal_) {
    constexpr size_t kWidth = 30;
    const auto full = static_cast<size_t>(share * kWidth);
    tell(fmt::format("\r{} [{}{}] {:3.0f} %, {:.0f} s left \x1b[K", what_, std::string(full, '#'),
                     std::string(kWidth - full, ' '), share * 100, left));
    shown_ = true;
  } else {
    tell(fmt::format("{}: {:.0f} %, {:.0f} s left\n", what_, share * 100, left));
  }
}

void Progress::clear() {
  if (shown_) tell("\r\x1b[K");
  shown_ = false;
}

}  // namespace windowkv::cli
