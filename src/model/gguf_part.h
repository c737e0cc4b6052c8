#pragma once

#include <ggml-cpp.h>
#include <gguf.h>

#include <cstdint>
#include <string>

namespace windowkv {

/// One file of a GGUF model: its header, checked, and its bytes, mapped. Nothing in it is trusted before it
/// was compared with the file's size.
class GgufPart {
 public:
  /// Throws Error for a file that cannot be read, is not GGUF, is truncated, or whose tensors overlap its
  /// end.
  explicit GgufPart(std::string path);
  ~GgufPart();
  GgufPart(const GgufPart&) = delete;
  GgufPart& operator=(const GgufPart&) = delete;

  const std::string& path() const { return path_; }
  const gguf_context* gguf() const { return gguf_.get(); }
  uint8_t* bytes() const { return map_; }
  size_t size() const { return size_; }

  /// An Error about this file.
  [[noreturn]] void fail(const std::string& what) const;

 private:
  void check_tensors() const;

  std::string path_;
  uint8_t* map_ = nullptr;
  size_t size_ = 0;
  gguf_context_ptr gguf_;
};

}  // namespace windowkv
