#include "support/gguf_edit.h"

#include <fmt/format.h>
#include <ggml-cpp.h>
#include <ggml.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "support/files.h"

namespace windowkv::test {

std::string edit_gguf(const std::string& source, std::string_view name,
                      const std::function<void(GgufEdit&)>& edit) {
  ggml_context* tensors = nullptr;
  const gguf_context_ptr from(gguf_init_from_file(source.c_str(), {/*no_alloc=*/false, &tensors}));
  const ggml_context_ptr data(tensors);
  if (!from) throw std::runtime_error("cannot read " + source);

  const gguf_context_ptr to(gguf_init_empty());
  gguf_set_kv(to.get(), from.get());
  GgufEdit changes{to.get(), {}, {}};
  edit(changes);

  auto is = [](const std::string& wanted) { return [&](const auto& other) { return other == wanted; }; };
  for (int64_t i = 0; i < gguf_get_n_tensors(from.get()); ++i) {
    const std::string tensor = gguf_get_tensor_name(from.get(), i);
    const bool gone = std::any_of(changes.removed.begin(), changes.removed.end(), is(tensor));
    const bool replaced = std::any_of(changes.replaced.begin(), changes.replaced.end(),
                                      [&](const auto& r) { return r.name == tensor; });
    if (!gone && !replaced) gguf_add_tensor(to.get(), ggml_get_tensor(data.get(), tensor.c_str()));
  }
  size_t bytes = 0;
  for (const auto& [tensor, shape, type] : changes.replaced) {
    size_t size = 4;
    for (auto n : shape) size *= static_cast<size_t>(n);
    bytes += size + ggml_tensor_overhead() + 64;
  }
  const ggml_context_ptr fresh(ggml_init({bytes + 1024, nullptr, /*no_alloc=*/false}));
  for (const auto& [tensor, shape, type] : changes.replaced) {
    auto* zeros = ggml_new_tensor(fresh.get(), type, static_cast<int>(shape.size()), shape.data());
    std::memset(zeros->data, 0, ggml_nbytes(zeros));
    ggml_set_name(zeros, tensor.c_str());
    gguf_add_tensor(to.get(), zeros);
  }
  auto path = temp_path(name);
  if (!gguf_write_to_file(to.get(), path.c_str(), /*only_meta=*/false))
    throw std::runtime_error("cannot write " + path);
  return path;
}

std::vector<std::string> split_gguf(const std::string& source, std::string_view name, int count) {
  ggml_context* tensors = nullptr;
  const gguf_context_ptr from(gguf_init_from_file(source.c_str(), {/*no_alloc=*/false, &tensors}));
  const ggml_context_ptr data(tensors);
  if (!from) throw std::runtime_error("cannot read " + source);
  const int64_t all = gguf_get_n_tensors(from.get());
  std::vector<std::string> paths;
  for (int part = 0; part < count; ++part) {
    const gguf_context_ptr to(gguf_init_empty());
    if (part == 0) gguf_set_kv(to.get(), from.get());
    gguf_set_val_u16(to.get(), "split.no", static_cast<uint16_t>(part));
    gguf_set_val_u16(to.get(), "split.count", static_cast<uint16_t>(count));
    gguf_set_val_i32(to.get(), "split.tensors.count", static_cast<int32_t>(all));
    for (int64_t i = all * part / count; i < all * (part + 1) / count; ++i)
      gguf_add_tensor(to.get(), ggml_get_tensor(data.get(), gguf_get_tensor_name(from.get(), i)));
    paths.push_back(temp_path(fmt::format("{}-{:05}-of-{:05}.gguf", name, part + 1, count)));
    if (!gguf_write_to_file(to.get(), paths.back().c_str(), /*only_meta=*/false))
      throw std::runtime_error("cannot write " + paths.back());
  }
  return paths;
}

void take_vocabulary(GgufEdit& edit, const std::string& from) {
  const gguf_context_ptr other(gguf_init_from_file(from.c_str(), {.no_alloc = true, .ctx = nullptr}));
  std::vector<std::string> others;
  for (int64_t i = 0; i < gguf_get_n_kv(other.get()); ++i)
    if (const std::string key = gguf_get_key(other.get(), i); !key.starts_with("tokenizer."))
      others.push_back(key);
  for (const auto& key : others) gguf_remove_key(other.get(), key.c_str());
  gguf_set_kv(edit.meta, other.get());
}

}  // namespace windowkv::test
