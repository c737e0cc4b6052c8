#include "model/gguf_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "backend/backend.h"
#include "windowkv/error.h"

namespace windowkv {

void GgufFile::fail(const std::string& what) const {
  throw Error(path_ + ": " + what);
}

GgufFile::GgufFile(const std::string& path) : path_(path) {
  capture_ggml_logs();
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(std::string("cannot open the model: ") + std::strerror(errno));
  struct stat info {};
  bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  size_ = regular ? static_cast<size_t>(info.st_size) : 0;
  void* map = size_ > 0 ? mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
  close(fd);
  if (!regular) fail("is not a file");
  if (size_ < 24 || map == MAP_FAILED || std::memcmp(map, GGUF_MAGIC, 4) != 0) {
    if (map != MAP_FAILED) munmap(map, size_);
    fail("not a GGUF model (no GGUF header); convert the model to GGUF first");
  }
  map_ = static_cast<uint8_t*>(map);
  try {
    const GgmlErrors errors;
    // Without a ggml_context: ggml aborts the process when it makes tensors of more than 2^62 elements.
    gguf_.reset(gguf_init_from_buffer(map_, size_, {/*no_alloc=*/true, nullptr}));
    if (!gguf_) fail("damaged or truncated GGUF" + errors.in_brackets() + "; download the file again");
    size_t start = gguf_get_data_offset(gguf_.get());
    for (int64_t i = 0; i < tensor_count(); ++i) {
      // Before libllama reads the same file and aborts.
      int64_t elements = 1;
      for (int d = 0; d < 4; ++d) {
        const int64_t ne = gguf_get_tensor_ne(gguf_.get(), i)[d];
        if (ne < 1 || ne > INT64_MAX / 16 / elements)
          fail("damaged: tensor " + std::string(gguf_get_tensor_name(gguf_.get(), i)) +
               " has impossible sizes");
        elements *= ne;
      }
      size_t offset = gguf_get_tensor_offset(gguf_.get(), i);
      size_t bytes = gguf_get_tensor_size(gguf_.get(), i);
      if (start > size_ || offset > size_ - start || bytes > size_ - start - offset)
        fail("truncated: tensor " + std::string(gguf_get_tensor_name(gguf_.get(), i)) + " ends at byte " +
             std::to_string(start + offset + bytes) + " of a file of " + std::to_string(size_) +
             "; download the file again");
    }
    check_vocabulary();
  } catch (...) {
    munmap(map_, size_);
    throw;
  }
}

void GgufFile::check_vocabulary() const {
  auto* g = gguf_.get();
  const int64_t id = gguf_find_key(g, "tokenizer.ggml.tokens");
  if (id < 0) return;
  if (gguf_get_kv_type(g, id) != GGUF_TYPE_ARRAY || gguf_get_arr_type(g, id) != GGUF_TYPE_STRING)
    fail("tokenizer.ggml.tokens is not a list of strings");
  std::unordered_set<std::string> seen;
  for (size_t i = 0; i < gguf_get_arr_n(g, id); ++i) {
    std::string text = gguf_get_arr_str(g, id, i);
    // libllama's name for an empty one; it aborts the process on repetitions.
    if (text.empty()) text = "[EMPTY_" + std::to_string(i) + "]";
    if (!seen.insert(std::move(text)).second)
      fail("damaged vocabulary: token " + std::to_string(i) +
           " repeats an earlier one; download the file again");
  }
}

GgufFile::~GgufFile() {
  if (map_ != nullptr) munmap(map_, size_);
}

namespace {

template <typename T>
T value_at(const void* data, size_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + index * sizeof(T), sizeof(T));
  return value;
}

/// Of one of the integer types and of booleans; what int64_t cannot hold is the largest it can.
std::optional<int64_t> integer_at(gguf_type type, const void* data, size_t index) {
  switch (type) {
    case GGUF_TYPE_UINT8:
      return value_at<uint8_t>(data, index);
    case GGUF_TYPE_INT8:
      return value_at<int8_t>(data, index);
    case GGUF_TYPE_UINT16:
      return value_at<uint16_t>(data, index);
    case GGUF_TYPE_INT16:
      return value_at<int16_t>(data, index);
    case GGUF_TYPE_UINT32:
      return value_at<uint32_t>(data, index);
    case GGUF_TYPE_INT32:
      return value_at<int32_t>(data, index);
    case GGUF_TYPE_UINT64:
      return static_cast<int64_t>(std::min<uint64_t>(value_at<uint64_t>(data, index), INT64_MAX));
    case GGUF_TYPE_INT64:
      return value_at<int64_t>(data, index);
    case GGUF_TYPE_BOOL:
      return value_at<int8_t>(data, index) != 0 ? 1 : 0;
    default:
      return std::nullopt;
  }
}

std::optional<double> number_at(gguf_type type, const void* data, size_t index) {
  if (type == GGUF_TYPE_FLOAT32) return value_at<float>(data, index);
  if (type == GGUF_TYPE_FLOAT64) return value_at<double>(data, index);
  return std::nullopt;
}

}  // namespace

template <typename T>
std::optional<T> GgufFile::find_number(const std::string& key,
                                       std::optional<T> (*read)(gguf_type, const void*, size_t)) const {
  auto* g = gguf_.get();
  const int64_t id = gguf_find_key(g, key.c_str());
  if (id < 0) return std::nullopt;
  auto type = gguf_get_kv_type(g, id);
  const bool list = type == GGUF_TYPE_ARRAY;
  if (list) type = gguf_get_arr_type(g, id);
  if (type == GGUF_TYPE_STRING || type == GGUF_TYPE_ARRAY)
    fail(key + " has the type " + gguf_type_name(type));
  const void* data = list ? gguf_get_arr_data(g, id) : gguf_get_val_data(g, id);
  const size_t count = list ? gguf_get_arr_n(g, id) : 1;
  if (count == 0) fail(key + " is an empty list");
  const auto value = read(type, data, 0);
  if (!value) fail(key + " has the type " + gguf_type_name(type));
  for (size_t i = 1; i < count; ++i)
    if (read(type, data, i) != value) fail(key + " differs by layer; such models are not supported");
  return value;
}

std::optional<int> GgufFile::find_int(const std::string& key) const {
  const auto value = find_number(key, integer_at);
  if (!value) return std::nullopt;
  if (*value < 0 || *value > INT_MAX) fail(key + " is out of range: " + std::to_string(*value));
  return static_cast<int>(*value);
}

std::optional<float> GgufFile::find_float(const std::string& key) const {
  const auto value = find_number(key, number_at);
  if (!value) return std::nullopt;
  if (!std::isfinite(static_cast<float>(*value))) fail(key + " is not a number");
  return static_cast<float>(*value);
}

std::optional<std::string> GgufFile::find_string(const std::string& key) const {
  const int64_t id = gguf_find_key(gguf_.get(), key.c_str());
  if (id < 0) return std::nullopt;
  if (const auto type = gguf_get_kv_type(gguf_.get(), id); type != GGUF_TYPE_STRING)
    fail(key + " has the type " + gguf_type_name(type));
  return gguf_get_val_str(gguf_.get(), id);
}

std::optional<int64_t> GgufFile::find_array_size(const std::string& key) const {
  int64_t id = gguf_find_key(gguf_.get(), key.c_str());
  if (id < 0 || gguf_get_kv_type(gguf_.get(), id) != GGUF_TYPE_ARRAY) return std::nullopt;
  return static_cast<int64_t>(gguf_get_arr_n(gguf_.get(), id));
}

int GgufFile::get_int(const std::string& key) const {
  auto value = find_int(key);
  if (!value) fail("metadata " + key + " is missing");
  return *value;
}

float GgufFile::get_float(const std::string& key) const {
  auto value = find_float(key);
  if (!value) fail("metadata " + key + " is missing");
  return *value;
}

GgufFile::Tensor GgufFile::tensor(int64_t index) const {
  auto* g = gguf_.get();
  Tensor t{gguf_get_tensor_type(g, index),
           {},
           gguf_get_tensor_size(g, index),
           map_ + gguf_get_data_offset(g) + gguf_get_tensor_offset(g, index)};
  std::copy_n(gguf_get_tensor_ne(g, index), 4, t.ne);
  return t;
}

std::optional<GgufFile::Tensor> GgufFile::find_tensor(const std::string& name) const {
  int64_t index = gguf_find_tensor(gguf_.get(), name.c_str());
  if (index < 0) return std::nullopt;
  return tensor(index);
}

}  // namespace windowkv
