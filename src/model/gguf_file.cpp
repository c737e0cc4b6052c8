#include "model/gguf_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <unordered_set>
#include <utility>

#include "support/part_name.h"
#include "windowkv/error.h"

namespace windowkv {

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

/// A value of a part's metadata; a list of equal numbers is that number.
template <typename T>
std::optional<T> find_number(const GgufPart& part, const std::string& key,
                             std::optional<T> (*read)(gguf_type, const void*, size_t)) {
  const auto* g = part.gguf();
  const int64_t id = gguf_find_key(g, key.c_str());
  if (id < 0) return std::nullopt;
  auto type = gguf_get_kv_type(g, id);
  const bool list = type == GGUF_TYPE_ARRAY;
  if (list) type = gguf_get_arr_type(g, id);
  if (type == GGUF_TYPE_STRING || type == GGUF_TYPE_ARRAY)
    part.fail(key + " has the type " + gguf_type_name(type));
  const void* data = list ? gguf_get_arr_data(g, id) : gguf_get_val_data(g, id);
  const size_t count = list ? gguf_get_arr_n(g, id) : 1;
  if (count == 0) part.fail(key + " is an empty list");
  const auto value = read(type, data, 0);
  if (!value) part.fail(key + " has the type " + gguf_type_name(type));
  for (size_t i = 1; i < count; ++i)
    if (read(type, data, i) != value) part.fail(key + " differs by layer; such models are not supported");
  return value;
}

}  // namespace

GgufFile::GgufFile(const std::string& path) {
  parts_.push_back(std::make_unique<GgufPart>(path));
  if (find_int("split.count").value_or(1) > 1) {
    add_parts(path);
    check_parts();
  }
  check_vocabulary();
}

void GgufFile::add_parts(const std::string& path) {
  const int count = find_int("split.count").value_or(1);
  const auto name = PartName::parse(path);
  if (!name || name->count != count)
    fail(fmt::format("one of {} parts of a model, whose names must end in -00001-of-{:05}.gguf and so on",
                     count, count));
  std::vector<std::unique_ptr<GgufPart>> all;
  for (int i = 1; i <= count; ++i) {
    const auto other = name->path(i);
    std::error_code ignored;
    if (i == name->number)
      all.push_back(std::move(parts_.front()));
    else if (std::filesystem::exists(other, ignored))
      all.push_back(std::make_unique<GgufPart>(other));
    else
      throw Error(fmt::format("{}: part {} of {} is missing: {}", path, i, count, other));
  }
  parts_ = std::move(all);
}

void GgufFile::check_parts() const {
  const auto count = std::ssize(parts_);
  std::unordered_set<std::string> names;
  int64_t tensors = 0;
  for (int64_t i = 0; i < count; ++i) {
    const auto& part = *parts_[static_cast<size_t>(i)];
    auto check = [&](const char* key, int64_t expected) {
      const auto value = find_number(part, key, integer_at);
      if (value != expected)
        part.fail(fmt::format("{} is {}, expected {}; the parts are not of one model", key,
                              value ? std::to_string(*value) : "missing", expected));
    };
    check("split.no", i);
    check("split.count", count);
    const int64_t n = gguf_get_n_tensors(part.gguf());
    for (int64_t t = 0; t < n; ++t)
      if (const char* name = gguf_get_tensor_name(part.gguf(), t); !names.insert(name).second)
        part.fail(fmt::format("tensor {} is in another part too; the parts are not of one model", name));
    tensors += n;
  }
  if (const auto all = find_int("split.tensors.count"); all != tensors)
    fail(fmt::format("split.tensors.count is {}, but the {} parts have {} tensors",
                     all ? std::to_string(*all) : "missing", count, tensors));
}

void GgufFile::check_vocabulary() const {
  const auto* g = metadata();
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

std::optional<int> GgufFile::find_int(const std::string& key) const {
  const auto value = find_number(*parts_.front(), key, integer_at);
  if (!value) return std::nullopt;
  if (*value < 0 || *value > INT_MAX) fail(key + " is out of range: " + std::to_string(*value));
  return static_cast<int>(*value);
}

std::optional<std::vector<int>> GgufFile::find_ints(const std::string& key) const {
  const auto* g = metadata();
  const int64_t id = gguf_find_key(g, key.c_str());
  if (id < 0) return std::nullopt;
  if (const auto type = gguf_get_kv_type(g, id); type != GGUF_TYPE_ARRAY)
    fail(key + " has the type " + gguf_type_name(type) + ", expected a list");
  const auto type = gguf_get_arr_type(g, id);
  std::vector<int> values;
  for (size_t i = 0; i < gguf_get_arr_n(g, id); ++i) {
    const bool numbers = type != GGUF_TYPE_STRING && type != GGUF_TYPE_ARRAY;
    const auto value = numbers ? integer_at(type, gguf_get_arr_data(g, id), i) : std::nullopt;
    if (!value) fail(key + " is a list of " + gguf_type_name(type) + ", expected integers");
    if (*value < 0 || *value > INT_MAX) fail(key + " is out of range: " + std::to_string(*value));
    values.push_back(static_cast<int>(*value));
  }
  return values;
}

std::optional<float> GgufFile::find_float(const std::string& key) const {
  const auto value = find_number(*parts_.front(), key, number_at);
  if (!value) return std::nullopt;
  if (!std::isfinite(static_cast<float>(*value))) fail(key + " is not a number");
  return static_cast<float>(*value);
}

std::optional<std::string> GgufFile::find_string(const std::string& key) const {
  const int64_t id = gguf_find_key(metadata(), key.c_str());
  if (id < 0) return std::nullopt;
  if (const auto type = gguf_get_kv_type(metadata(), id); type != GGUF_TYPE_STRING)
    fail(key + " has the type " + gguf_type_name(type));
  return gguf_get_val_str(metadata(), id);
}

std::optional<int64_t> GgufFile::find_array_size(const std::string& key) const {
  int64_t id = gguf_find_key(metadata(), key.c_str());
  if (id < 0 || gguf_get_kv_type(metadata(), id) != GGUF_TYPE_ARRAY) return std::nullopt;
  return static_cast<int64_t>(gguf_get_arr_n(metadata(), id));
}

std::vector<int> GgufFile::get_ints(const std::string& key, int count) const {
  const auto* g = metadata();
  const int64_t id = gguf_find_key(g, key.c_str());
  if (id < 0 || gguf_get_kv_type(g, id) != GGUF_TYPE_ARRAY)
    return std::vector<int>(static_cast<size_t>(count), get_int(key));
  const auto type = gguf_get_arr_type(g, id);
  if (const size_t size = gguf_get_arr_n(g, id); size != static_cast<size_t>(count))
    fail(fmt::format("{} has {} numbers for {} layers", key, size, count));
  if (type == GGUF_TYPE_STRING || type == GGUF_TYPE_ARRAY)
    fail(key + " is a list of the type " + gguf_type_name(type));
  std::vector<int> values;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    const auto value = integer_at(type, gguf_get_arr_data(g, id), i);
    if (!value) fail(key + " is a list of the type " + gguf_type_name(type));
    if (*value < 0 || *value > INT_MAX) fail(fmt::format("{} is out of range: {}", key, *value));
    values.push_back(static_cast<int>(*value));
  }
  return values;
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

std::optional<GgufFile::Tensor> GgufFile::find_tensor(const std::string& name) const {
  for (size_t p = 0; p < parts_.size(); ++p) {
    const auto* g = parts_[p]->gguf();
    const int64_t index = gguf_find_tensor(g, name.c_str());
    if (index < 0) continue;
    Tensor t{gguf_get_tensor_type(g, index),
             {},
             gguf_get_tensor_size(g, index),
             parts_[p]->bytes() + gguf_get_data_offset(g) + gguf_get_tensor_offset(g, index),
             p};
    std::copy_n(gguf_get_tensor_ne(g, index), 4, t.ne);
    return t;
  }
  return std::nullopt;
}

std::vector<std::string> GgufFile::tensor_names() const {
  std::vector<std::string> names;
  for (const auto& part : parts_)
    for (int64_t i = 0; i < gguf_get_n_tensors(part->gguf()); ++i)
      names.emplace_back(gguf_get_tensor_name(part->gguf(), i));
  return names;
}

}  // namespace windowkv
