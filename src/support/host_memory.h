#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace windowkv {

/// Pages of memory for bulk data, zeroed: anonymous, of a temporary file, or a file's own content.
class HostMemory {
 public:
  HostMemory() = default;
  /// Throws Error where there is none.
  static HostMemory anonymous(size_t bytes);
  /// In a file without a name in $TMPDIR (/tmp), whose disk space is taken at once. Throws Error where that
  /// fails.
  static HostMemory temporary_file(size_t bytes);
  /// A file, read-only. Throws Error for one that is not a regular file or cannot be mapped. Once another
  /// process makes the file shorter, reading what is gone raises SIGBUS.
  static HostMemory of_file(const std::string& path);
  ~HostMemory();
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&& other) noexcept;

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  /// Whether it takes memory that the system cannot get back by writing a file.
  bool is_anonymous() const { return anonymous_; }

 private:
  HostMemory(uint8_t* data, size_t size, bool anonymous) : data_(data), size_(size), anonymous_(anonymous) {}

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  bool anonymous_ = false;
};

/// Where temporary files go: $TMPDIR, or /tmp.
std::string temporary_folder();

}  // namespace windowkv
