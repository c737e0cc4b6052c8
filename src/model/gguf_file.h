#pragma once

#include <gguf.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/gguf_part.h"

namespace windowkv {

/// A GGUF model: its metadata, checked, and its tensors, in one file or in several whose names end in
/// "-00001-of-00003.gguf" and so on.
class GgufFile {
 public:
  /// `path`: the file, or any part. Throws Error where GgufPart does, for a part that is missing, and for
  /// parts that do not belong together.
  explicit GgufFile(const std::string& path);

  /// Of the first part.
  const std::string& path() const { return parts_.front()->path(); }

  /// Values by key; nullopt where the key is missing. A list of equal numbers is that number: converters
  /// write one a layer. Throws Error where the value has another type, is out of range, or differs by layer.
  std::optional<int> find_int(const std::string& key) const;
  /// A list of integers or booleans, all of them.
  std::optional<std::vector<int>> find_ints(const std::string& key) const;
  std::optional<float> find_float(const std::string& key) const;
  std::optional<std::string> find_string(const std::string& key) const;
  /// Length of an array; nullopt where the key is missing or no array.
  std::optional<int64_t> find_array_size(const std::string& key) const;
  /// A list of so many whole numbers or booleans, which may be given as one number. Throws Error where the
  /// key is missing, has another length or another type, or a number is out of range.
  std::vector<int> get_ints(const std::string& key, int count) const;
  /// As the find functions, but throws Error where the key is missing.
  int get_int(const std::string& key) const;
  float get_float(const std::string& key) const;

  struct Tensor {
    ggml_type type;
    int64_t ne[4];
    size_t bytes;
    const uint8_t* data;  ///< in the mapped part
    size_t part;
  };
  std::optional<Tensor> find_tensor(const std::string& name) const;
  /// Of all parts.
  std::vector<std::string> tensor_names() const;

  size_t part_count() const { return parts_.size(); }
  const GgufPart& part(size_t index) const { return *parts_[index]; }

  /// An Error about this file.
  [[noreturn]] void fail(const std::string& what) const { parts_.front()->fail(what); }

 private:
  void add_parts(const std::string& path);
  void check_parts() const;
  void check_vocabulary() const;
  const gguf_context* metadata() const { return parts_.front()->gguf(); }

  std::vector<std::unique_ptr<GgufPart>> parts_;
};

}  // namespace windowkv
