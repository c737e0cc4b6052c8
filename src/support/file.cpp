#include "support/file.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "support/utf8.h"
#include "windowkv/error.h"

namespace windowkv {

void check_stream_size(size_t size, const std::string& source) {
  constexpr size_t kMost = size_t{1} << 30;
  if (size > kMost)
    throw Error(
        fmt::format("{}: more than {} GiB came and no end; give a file that ends", source, kMost >> 30));
}

std::string read_file(const std::string& path) {
  const bool standard = path == "-";
  const std::string name = standard ? "standard input" : path;
  if (!standard && std::filesystem::is_directory(path)) throw Error(name + ": is a folder, not a file");
  std::FILE* file = standard ? stdin : std::fopen(path.c_str(), "rb");
  if (file == nullptr) throw Error(fmt::format("{}: cannot read: {}", name, std::strerror(errno)));
  struct stat status {};
  const bool ends = fstat(fileno(file), &status) == 0 && S_ISREG(status.st_mode);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> owned(standard ? nullptr : file, std::fclose);
  std::string content;
  char buffer[1 << 16];
  bool failed = false;
  for (;;) {
    // Ctrl-C ends the wait for who types or writes into a pipe; a read alone would go on.
    pollfd ready{fileno(file), POLLIN, 0};
    if (standard && poll(&ready, 1, -1) < 0 && errno == EINTR) throw Cancelled();
    const ssize_t got = read(fileno(file), buffer, sizeof buffer);
    failed = got < 0;
    if (got <= 0) break;
    content.append(buffer, static_cast<size_t>(got));
    if (!ends) check_stream_size(content.size(), name);
  }
  if (failed) throw Error(name + ": cannot read: input error");
  return content;
}

std::string read_file_start(const std::string& path, size_t count) {
  if (std::filesystem::is_directory(path)) throw Error(path + ": is a folder, not a file");
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) throw Error(fmt::format("{}: cannot read: {}", path, std::strerror(errno)));
  std::string content(count, '\0');
  content.resize(std::fread(content.data(), 1, count, file));
  std::fclose(file);
  return content;
}

std::string read_text_file(const std::string& path) {
  return checked_text(read_file(path), path == "-" ? "standard input" : path);
}

std::string checked_text(std::string content, const std::string& source) {
  if (auto at = utf8_first_error(content); at != std::string::npos)
    throw Error(
        fmt::format("{}: not UTF-8 text (byte {}); convert it first, for example with iconv", source, at));
  static constexpr std::string_view kMark = "\xEF\xBB\xBF";
  if (content.starts_with(kMark)) content.erase(0, kMark.size());
  return content;
}

std::vector<NumberedLine> lines_of(std::string_view content) {
  std::vector<NumberedLine> lines;
  size_t number = 0;
  for (size_t start = 0; start < content.size();) {
    const size_t end = std::min(content.find('\n', start), content.size());
    const auto line = content.substr(start, end - start);
    start = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) lines.push_back({number, line});
  }
  return lines;
}

}  // namespace windowkv
