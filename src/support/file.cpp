#include "support/file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <set>

#include "support/utf8.h"
#include "windowkv/error.h"

namespace windowkv {

std::string read_file(const std::string& path) {
  const bool standard = path == "-";
  const std::string name = standard ? "standard input" : path;
  if (!standard && std::filesystem::is_directory(path)) throw Error(name + ": is a folder, not a file");
  std::FILE* file = standard ? stdin : std::fopen(path.c_str(), "rb");
  if (file == nullptr) throw Error(fmt::format("{}: cannot read: {}", name, std::strerror(errno)));
  std::string content;
  char buffer[1 << 16];
  for (size_t got; (got = std::fread(buffer, 1, sizeof buffer, file)) > 0;) content.append(buffer, got);
  const bool failed = std::ferror(file) != 0;
  if (!standard) std::fclose(file);
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
  auto content = read_file(path);
  if (auto at = utf8_first_error(content); at != std::string::npos)
    throw Error(fmt::format("{}: not UTF-8 text (byte {}); convert it first, for example with iconv",
                            path == "-" ? "standard input" : path, at));
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

namespace {

std::mutex unfinished_mutex;
std::set<std::string> unfinished;  // temporary files

void set_unfinished(const std::string& temporary, bool is) {
  if (temporary.empty()) return;
  std::scoped_lock lock(unfinished_mutex);
  if (is)
    unfinished.insert(temporary);
  else
    unfinished.erase(temporary);
}

}  // namespace

void remove_unfinished_files() {
  std::scoped_lock lock(unfinished_mutex);
  for (const auto& path : unfinished) std::remove(path.c_str());
}

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  std::error_code ignored;
  const auto status = std::filesystem::status(path, ignored);
  const bool special = std::filesystem::exists(status) && !std::filesystem::is_regular_file(status);
  if (!special) temporary_ = fmt::format("{}.part{}", path, getpid());
  file_ = std::fopen((special ? path_ : temporary_).c_str(), "wb");
  if (file_ == nullptr) throw Error(fmt::format("{}: cannot write: {}", path_, std::strerror(errno)));
  set_unfinished(temporary_, true);
}

AtomicFile::~AtomicFile() {
  if (file_ == nullptr) return;
  std::fclose(file_);
  if (!temporary_.empty()) std::remove(temporary_.c_str());
  set_unfinished(temporary_, false);
}

void AtomicFile::fail() {
  throw Error(fmt::format("{}: cannot write: {}", path_, std::strerror(errno)));
}

void AtomicFile::commit(const std::string& content) {
  if (std::fwrite(content.data(), 1, content.size(), file_) != content.size() || std::fflush(file_) != 0)
    fail();
  if (temporary_.empty()) return;
  if (fsync(fileno(file_)) != 0) fail();
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail();
  set_unfinished(temporary_, false);
  std::fclose(file_);
  file_ = nullptr;
}

std::unique_ptr<AtomicFile> open_output(const std::string& path) {
  return path.empty() ? nullptr : std::make_unique<AtomicFile>(path);
}

}  // namespace windowkv
