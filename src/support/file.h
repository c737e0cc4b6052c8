#pragma once

#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace windowkv {

/// The whole of a file; "-" is standard input. Throws Error for one that cannot be read, and for a device or
/// a pipe that gives more than any input has.
std::string read_file(const std::string& path);

/// Throws Error where so many bytes have come from a pipe or a device: /dev/zero, or a program that never
/// ends, would fill the memory.
void check_stream_size(size_t size, const std::string& source);

/// The first `count` bytes of a file, or all it has. Throws Error for one that cannot be read.
std::string read_file_start(const std::string& path, size_t count);

/// As read_file, as checked_text.
std::string read_text_file(const std::string& path);

/// Text without the byte order mark that some editors put before it. Throws Error, with the name of its
/// source and the byte's offset, for what is not UTF-8.
std::string checked_text(std::string content, const std::string& source);

/// A line of a text, without its end; numbers count from 1.
struct NumberedLine {
  size_t number;
  std::string_view text;
};

/// The lines that are not blank; views of `content`.
std::vector<NumberedLine> lines_of(std::string_view content);

/// A file that appears under its name only once it is complete; until then it is beside it, and goes when
/// this object does. Symbolic links are written through; a file in a folder that cannot be written is
/// overwritten in place; pipes, devices and /dev/stdout are written directly. Made before long work, so that
/// a path that cannot be written is known first.
class AtomicFile {
 public:
  /// Takes the next bytes of a file.
  using Write = std::function<void(const void* data, size_t size)>;
  /// Hands all bytes of a file to `write`, in pieces. May be asked to do so twice.
  using Content = std::function<void(const Write& write)>;

  /// kNever: for a file that others may have mapped. They keep what a file held that was replaced; one
  /// that is overwritten changes under them.
  enum class InPlace { kWhereNeeded, kNever };

  /// Throws Error where the file cannot be made.
  explicit AtomicFile(const std::string& path, InPlace in_place = InPlace::kWhereNeeded);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Writes everything and puts the file in place. Throws Error where that fails (a full disk), leaving
  /// nothing.
  void commit(const Content& content);
  void commit(const std::string& content);

 private:
  [[noreturn]] void fail();
  void overwrite(const Content& content);

  std::string path_;       // as given
  std::string target_;     // links followed
  std::string temporary_;  // empty: the target is written directly
  InPlace allowed_;
  bool in_place_ = false;  // the target is a file with content that goes on commit
  std::FILE* file_ = nullptr;
};

/// Removes what lies beside the paths of all AtomicFiles that are not complete, before the process ends
/// without their destructors. May be called by a signal handler.
void remove_unfinished_files();

/// The file of an output flag; null where the flag was not given.
std::unique_ptr<AtomicFile> open_output(const std::string& path);

}  // namespace windowkv
