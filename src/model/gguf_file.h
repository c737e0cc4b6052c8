#pragma once

#include <ggml-cpp.h>
#include <gguf.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace windowkv {

/// A GGUF file: its metadata, checked, and its bytes, mapped. Nothing in it is trusted before it was compared
/// with the file's size.
class GgufFile {
 public:
  /// Throws Error for a file that cannot be read, is not GGUF, is truncated, or whose tensors overlap its
  /// end.
  explicit GgufFile(const std::string& path);
  ~GgufFile();
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  const std::string& path() const { return path_; }

  /// Values by key; nullopt where the key is missing. A list of equal numbers is that number: converters
  /// write one a layer. Throws Error where the value has another type, is out of range, or differs by layer.
  std::optional<int> find_int(const std::string& key) const;
  std::optional<float> find_float(const std::string& key) const;
  std::optional<std::string> find_string(const std::string& key) const;
  /// Length of an array; nullopt where the key is missing or no array.
  std::optional<int64_t> find_array_size(const std::string& key) const;
  /// As the find functions, but throws Error where the key is missing.
  int get_int(const std::string& key) const;
  float get_float(const std::string& key) const;

  struct Tensor {
    ggml_type type;
    int64_t ne[4];
    size_t bytes;
    const uint8_t* data;  ///< in the mapped file
  };
  std::optional<Tensor> find_tensor(const std::string& name) const;
  int64_t tensor_count() const { return gguf_get_n_tensors(gguf_.get()); }
  Tensor tensor(int64_t index) const;
  std::string tensor_name(int64_t index) const { return gguf_get_tensor_name(gguf_.get(), index); }

  uint8_t* bytes() const { return map_; }
  size_t size() const { return size_; }

  /// An Error about this file.
  [[noreturn]] void fail(const std::string& what) const;

 private:
  void check_vocabulary() const;
  template <typename T>
  std::optional<T> find_number(const std::string& key,
                               std::optional<T> (*read)(gguf_type, const void*, size_t)) const;

  std::string path_;
  uint8_t* map_ = nullptr;
  size_t size_ = 0;
  gguf_context_ptr gguf_;
};

}  // namespace windowkv
