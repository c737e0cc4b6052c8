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
    take_ggml_error();
    // Without a ggml_context: ggml aborts the process when it makes tensors of more than 2^62 elements.
    gguf_.reset(gguf_init_from_buffer(map_, size_, {/*no_alloc=*/true, nullptr}));
    if (!gguf_) {
      auto detail = take_ggml_error();
      fail("damaged or truncated GGUF" + (detail.empty() ? "" : " (" + detail + ")") +
           "; fetch the file again");
    }
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
             "; fetch the file again");
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
           " repeats an earlier one; fetch the file again");
  }
}

GgufFile::~GgufFile() {
  if (map_ != nullptr) munmap(map_, size_);
}

int64_t GgufFile::find_key(const std::string& key, std::initializer_list<gguf_type> types) const {
  int64_t id = gguf_find_key(gguf_.get(), key.c_str());
  if (id < 0) return id;
  auto type = gguf_get_kv_type(gguf_.get(), id);
  if (std::find(types.begin(), types.end(), type) != types.end()) return id;
  if (type == GGUF_TYPE_ARRAY) fail(key + " differs by layer; such models are not supported");
  fail(key + " has the type " + gguf_type_name(type));
}

std::optional<int> GgufFile::find_int(const std::string& key) const {
  auto id =
      find_key(key, {GGUF_TYPE_UINT8, GGUF_TYPE_INT8, GGUF_TYPE_UINT16, GGUF_TYPE_INT16, GGUF_TYPE_UINT32,
                     GGUF_TYPE_INT32, GGUF_TYPE_UINT64, GGUF_TYPE_INT64, GGUF_TYPE_BOOL});
  if (id < 0) return std::nullopt;
  auto* g = gguf_.get();
  int64_t value = 0;
  switch (gguf_get_kv_type(g, id)) {
    case GGUF_TYPE_UINT8:
      value = gguf_get_val_u8(g, id);
      break;
    case GGUF_TYPE_INT8:
      value = int{gguf_get_val_i8(g, id)};
      break;
    case GGUF_TYPE_UINT16:
      value = gguf_get_val_u16(g, id);
      break;
    case GGUF_TYPE_INT16:
      value = gguf_get_val_i16(g, id);
      break;
    case GGUF_TYPE_UINT32:
      value = gguf_get_val_u32(g, id);
      break;
    case GGUF_TYPE_INT32:
      value = gguf_get_val_i32(g, id);
      break;
    case GGUF_TYPE_UINT64:
      value = static_cast<int64_t>(std::min<uint64_t>(gguf_get_val_u64(g, id), INT64_MAX));
      break;
    case GGUF_TYPE_INT64:
      value = gguf_get_val_i64(g, id);
      break;
    default:
      value = gguf_get_val_bool(g, id) ? 1 : 0;
      break;
  }
  if (value < 0 || value > INT_MAX) fail(key + " is out of range: " + std::to_string(value));
  return static_cast<int>(value);
}

std::optional<float> GgufFile::find_float(const std::string& key) const {
  auto id = find_key(key, {GGUF_TYPE_FLOAT32, GGUF_TYPE_FLOAT64});
  if (id < 0) return std::nullopt;
  auto* g = gguf_.get();
  float value = gguf_get_kv_type(g, id) == GGUF_TYPE_FLOAT32 ? gguf_get_val_f32(g, id)
                                                             : static_cast<float>(gguf_get_val_f64(g, id));
  if (!std::isfinite(value)) fail(key + " is not a number");
  return value;
}

std::optional<std::string> GgufFile::find_string(const std::string& key) const {
  auto id = find_key(key, {GGUF_TYPE_STRING});
  if (id < 0) return std::nullopt;
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
