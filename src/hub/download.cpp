#include "hub/download.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string_view>
#include <system_error>
#include <thread>

#include "hub/sha256.h"

namespace windowkv::hub {

namespace fs = std::filesystem;

namespace {

constexpr int kAttempts = 4;  // in a row that bring nothing

void check(const Listener& listener) {
  if (listener.cancelled && listener.cancelled()) throw Cancelled();
}

/// Waits, but not for a user who has had enough.
void pause(std::chrono::milliseconds time, const Listener& listener) {
  constexpr std::chrono::milliseconds kStep{100};
  for (; time > kStep; time -= kStep) {
    check(listener);
    std::this_thread::sleep_for(kStep);
  }
  std::this_thread::sleep_for(time);
}

/// The file as far as it has come, with the hash of what is there; no other process's at the same time.
class Part {
 public:
  Part(const Download& download, const Listener& listener)
      : download_(download), path_(download.to.string() + ".downloadInProgress") {
    try {
      // Another process may have finished or removed the file that was opened.
      do {
        if (fd_ >= 0) close(fd_);
        fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd_ < 0) fail();
        lock(listener);
      } while (!is_named());
      read_back(listener);
    } catch (...) {
      if (fd_ >= 0) close(fd_);
      throw;
    }
  }
  ~Part() {
    if (bytes_ == 0) remove();
    close(fd_);
  }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  int64_t bytes() const { return bytes_; }
  /// The hash, which is asked for once.
  std::string sha256() { return hash_.hex(); }

  void append(std::span<const uint8_t> bytes) {
    // What begins otherwise is no model: a login page, an error.
    constexpr std::string_view kMagic = "GGUF";
    for (size_t i = 0; i < bytes.size() && bytes_ + static_cast<int64_t>(i) < 4; ++i)
      if (bytes[i] != static_cast<uint8_t>(kMagic[static_cast<size_t>(bytes_) + i])) {
        remove();
        throw Error(download_.name + ": the server did not send a GGUF file");
      }
    for (auto rest = bytes; !rest.empty();) {
      const auto written = write(fd_, rest.data(), rest.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail();
      rest = rest.subspan(static_cast<size_t>(written));
    }
    hash_.add(bytes);
    bytes_ += static_cast<int64_t>(bytes.size());
  }

  void clear() {
    if (ftruncate(fd_, 0) != 0 || lseek(fd_, 0, SEEK_SET) != 0) fail();
    bytes_ = 0;
    hash_ = Sha256();
  }

  void remove() { unlink(path_.c_str()); }

  void finish() {
    if (fsync(fd_) != 0 || std::rename(path_.c_str(), download_.to.c_str()) != 0) fail();
  }

 private:
  [[noreturn]] void fail() const {
    const int error = errno;
    if (error == ENOSPC || error == EDQUOT)
      throw Error(fmt::format("{}: the disk is full; free {} and run the command again to resume", path_,
                              size_text(std::max<int64_t>(0, download_.bytes - bytes_))));
    throw Error(
        fmt::format("{}: cannot write: {}; set LLAMA_CACHE to use another folder for downloaded models",
                    path_, std::strerror(error)));
  }

  void lock(const Listener& listener) {
    bool told = false;
    while (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return;  // a file system without locks
      if (!told && listener.note)
        listener.note("waiting for another process that is downloading " + download_.name);
      told = true;
      pause(std::chrono::milliseconds(500), listener);
    }
  }

  /// Whether the open file still has its name.
  bool is_named() const {
    struct stat ours = {};
    struct stat named = {};
    return fstat(fd_, &ours) == 0 && stat(path_.c_str(), &named) == 0 && ours.st_ino == named.st_ino;
  }

  void read_back(const Listener& listener) {
    std::array<uint8_t, 1 << 16> buffer;
    for (ssize_t got; (got = read(fd_, buffer.data(), buffer.size())) != 0;) {
      if (got < 0) fail();
      check(listener);
      hash_.add({buffer.data(), static_cast<size_t>(got)});
      bytes_ += got;
    }
  }

  const Download& download_;
  std::string path_;
  int fd_ = -1;
  int64_t bytes_ = 0;
  Sha256 hash_;
};

void check_space(const Download& download, const Part& part) {
  std::error_code error;
  const auto space = fs::space(download.to.parent_path(), error);
  const int64_t missing = download.bytes - part.bytes();
  if (!error && missing > 0 && static_cast<uint64_t>(missing) > space.available)
    throw Error(
        fmt::format("{}: not enough space for {}: {} needed, {} free; set LLAMA_CACHE to use another folder "
                    "for downloaded models",
                    download.to.parent_path().string(), download.name, size_text(missing),
                    size_text(static_cast<int64_t>(space.available))));
}

/// One request for what is missing. Returns why it is not all there yet, "" where it may be.
std::string fetch_rest(Http& http, const Download& download, Part& part, Response& response,
                       const Listener& listener) {
  Reader reader;
  reader.begin = [&](const Response& start) {
    if (start.html()) throw Error(download.name + ": the server sent a web page, not a GGUF file");
    if (start.status == 200 || start.range_start != part.bytes()) {
      if (start.status == 206)
        throw Unavailable(download.name + ": the server sent a different part than requested");
      part.clear();
    }
  };
  reader.data = [&](std::span<const uint8_t> bytes) {
    part.append(bytes);
    if (listener.progress) listener.progress(part.bytes(), download.bytes);
  };
  response = http.get(download.url, part.bytes(), reader);
  if (response.status == 416) {  // what is there is longer than the file
    part.clear();
    return "the server has no such part";
  }
  if (!response.failure.empty()) return response.failure;
  if (response.status == 429 || response.status >= 500) return "the server answered " + status_text(response);
  if (response.status == 401 || response.status == 403) throw Unavailable(download.no_access);
  if (response.status != 200 && response.status != 206)
    throw Unavailable(fmt::format("{}: the server answered {}", download.name, status_text(response)));
  if (part.bytes() < download.bytes)
    return fmt::format("the server sent {} of {}", size_text(part.bytes()), size_text(download.bytes));
  return "";
}

/// Until all of it is there. Returns the SHA-256 that the server tells, "" for none.
std::string fetch_all(Http& http, const Download& download, Part& part, const Listener& listener) {
  Response response;
  int failed = 0;
  while (download.bytes == 0 || part.bytes() != download.bytes) {
    const auto before = part.bytes();
    const auto why = fetch_rest(http, download, part, response, listener);
    if (why.empty()) break;
    failed = part.bytes() > before ? 1 : failed + 1;
    if (failed >= kAttempts)
      throw Unavailable(
          part.bytes() == 0
              ? fmt::format("{}: cannot be downloaded: {}", download.name, why)
              : fmt::format("{}: the download stopped after {}: {}; run the command again to resume",
                            download.name, size_text(part.bytes()), why));
    pause(std::chrono::seconds(1 << (failed - 1)), listener);
  }
  return response.linked_sha256;
}

}  // namespace

void download(Http& http, const Download& download, const Listener& listener) {
  Part part(download, listener);
  std::error_code ignored;
  if (fs::exists(download.to, ignored)) {  // made by the process that was waited for
    part.remove();
    return;
  }
  if (part.bytes() > download.bytes && download.bytes > 0) part.clear();
  check_space(download, part);
  if (part.bytes() > 0 && listener.note)
    listener.note(fmt::format("{} already downloaded", size_text(part.bytes())));
  try {
    const auto told = fetch_all(http, download, part, listener);
    const auto& expected = download.sha256.empty() ? told : download.sha256;
    const bool right = (download.bytes == 0 || part.bytes() == download.bytes) &&
                       (expected.empty() || part.sha256() == expected);
    if (!right) {
      part.remove();
      throw Error(
          fmt::format("{}: the downloaded file is corrupt (its SHA-256 differs) and was deleted; run the "
                      "command again",
                      download.name));
    }
  } catch (const Cancelled&) {
    if (listener.note && part.bytes() > 0)
      listener.note(fmt::format("kept {} of {}; the next download resumes from there",
                                size_text(part.bytes()), download.name));
    throw;
  }
  part.finish();
}

std::string status_text(const Response& response) {
  const char* meaning = "";
  switch (response.status) {
    case 401:
      meaning = " (a token is needed)";
      break;
    case 403:
      meaning = " (no access)";
      break;
    case 404:
      meaning = " (not found)";
      break;
    case 429:
      meaning = " (too many requests)";
      break;
    default:
      meaning = response.status >= 500 ? " (server error)" : "";
  }
  return fmt::format("{}{}", response.status, meaning);
}

std::string size_text(int64_t bytes) {
  const auto b = static_cast<double>(bytes);
  return bytes < 1'000'000'000 ? fmt::format("{:.1f} MB", b / 1e6) : fmt::format("{:.2f} GB", b / 1e9);
}

}  // namespace windowkv::hub
