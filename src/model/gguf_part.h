#pragma once

#include <ggml-cpp.h>
#include <gguf.h>

#include <cstdint>
#include <string>

#include "support/host_memory.h"

namespace windowkv {

/// One file of a GGUF model: its header, checked, and its bytes, mapped. Nothing in it is trusted before it
/// was compared with the file's size.
class GgufPart {
 public:
  /// Throws Error for a file that cannot be read, is not GGUF, is truncated, or whose tensors overlap its
  /// end.
  explicit GgufPart(std::string path);

  const std::string& path() const { return path_; }
  const gguf_context* gguf() const { return gguf_.get(); }
  uint8_t* bytes() const { return file_.data(); }
  size_t size() const { return file_.size(); }

  /// An Error about this file.
  [[noreturn]] void fail(const std::string& what) const;

 private:
  void check_tensors() const;

  std::string path_;
  HostMemory file_;
  gguf_context_ptr gguf_;
};

}  // namespace windowkv
