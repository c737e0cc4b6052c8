#include "cli/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

bool silent = false;  // of progress

int64_t now_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

/// Whether a line can be written over: not in a file, and not on a terminal that has no cursor to move.
bool updates_a_line(int stream) {
  const char* kind = std::getenv("TERM");
  return isatty(stream) != 0 && kind != nullptr && std::string_view(kind) != "dumb";
}

}  // namespace

bool in_color(const std::string& wanted) {
  if (wanted != "auto") return wanted == "always";
  const char* none = std::getenv("NO_COLOR");
  return updates_a_line(STDOUT_FILENO) && (none == nullptr || *none == '\0');
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

void note(const std::string& text) {
  tell(fmt::format("windowkv: note: {}\n", text));
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::ceil(seconds));
  if (whole < 120) return fmt::format("{} s", whole);
  const auto minutes = (whole + 30) / 60;
  return minutes < 120 ? fmt::format("{} min", minutes)
                       : fmt::format("{} h {} min", minutes / 60, minutes % 60);
}

void Progress::silence() {
  silent = true;
}

Progress::Progress(std::string what)
    : what_(std::move(what)),
      line_(updates_a_line(STDERR_FILENO)),
      start_ms_(now_ms()),
      last_ms_(start_ms_) {}

void Progress::update(int64_t done, int64_t total) {
  const int64_t now = now_ms();
  share_ = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0;
  if (silent || done >= total) return;
  if (now - start_ms_ < 1000 || now - last_ms_ < (line_ ? 100 : 10000)) return;
  // Into a file at most ten lines, and the first.
  if (!line_ && told_ && share_ < last_share_ + 0.1) return;
  told_ = true;
  last_ms_ = now;
  last_share_ = share_;
  show(done > 0 ? fmt::format(", {} left",
                              duration_text(static_cast<double>(now - start_ms_) / 1000 *
                                            static_cast<double>(total - done) / static_cast<double>(done)))
                : "");
}

void Progress::stage(const std::string& name) {
  if (!silent && line_) show(", " + name);
}

void Progress::show(const std::string& end) {
  auto text = fmt::format("{:3.0f} %{}", share_ * 100, end);
  if (!line_) return tell(fmt::format("{}: {}\n", what_, text.substr(text.find_first_not_of(' '))));
  constexpr size_t kWidth = 30;
  const auto full = std::min(kWidth, static_cast<size_t>(share_ * kWidth));
  text = fmt::format("{} [{}{}] {}", what_, std::string(full, '#'), std::string(kWidth - full, ' '), text);
  tell(fmt::format("\r{:<{}}", text, shown_));
  shown_ = text.size();
}

void Progress::clear() {
  if (shown_ > 0) tell(fmt::format("\r{:{}}\r", "", shown_));
  shown_ = 0;
}

}  // namespace windowkv::cli
