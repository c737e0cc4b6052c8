#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "windowkv/error.h"

/// What the fuzz targets share.
namespace windowkv::fuzz {

/// A file of that name, in a folder that this process removes when it ends, for readers that take a path.
class InputFile {
 public:
  explicit InputFile(const std::string& name);
  const std::string& path() const { return path_; }
  /// Replaces its content; returns the path.
  const std::string& fill(std::string_view content) const;

 private:
  std::string path_;
};

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Aborts, which the fuzzer takes for a crash, where something is not as it must be.
void require(bool holds, const char* what);

/// Runs a reader. Refusing its input with an Error is all that it may throw.
template <typename Read>
void refuse_or(Read&& read) {
  try {
    read();
  } catch (const Error& e) {
    require(*e.what() != '\0', "an Error that says nothing");
  }
}

}  // namespace windowkv::fuzz
