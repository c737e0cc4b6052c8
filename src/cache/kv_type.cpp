#include "cache/kv_type.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>

#include "windowkv/error.h"

namespace windowkv {

namespace {

struct Entry {
  KvType type;
  ggml_type ggml;
};
constexpr std::array kTypes = {Entry{KvType::kF16, GGML_TYPE_F16}, Entry{KvType::kBf16, GGML_TYPE_BF16},
                               Entry{KvType::kQ8_0, GGML_TYPE_Q8_0}, Entry{KvType::kQ4_0, GGML_TYPE_Q4_0}};

}  // namespace

ggml_type to_ggml(KvType type) {
  for (const auto& entry : kTypes)
    if (entry.type == type) return entry.ggml;
  throw Error("no such KV type");
}

std::string_view to_string(KvType type) {
  return ggml_type_name(to_ggml(type));
}

KvType parse_kv_type(std::string_view text) {
  for (const auto& entry : kTypes)
    if (text == ggml_type_name(entry.ggml)) return entry.type;
  throw Error(
      fmt::format("unknown KV cache type \"{}\"; use one of: {}", text, fmt::join(kv_type_names(), ", ")));
}

std::vector<std::string> kv_type_names() {
  std::vector<std::string> names;
  names.reserve(kTypes.size());
  for (const auto& entry : kTypes) names.emplace_back(ggml_type_name(entry.ggml));
  return names;
}

int64_t kv_token_bytes(const HParams& hp, KvTypes types) {
  return kv_row_bytes(types, hp.kv_row());
}

int64_t kv_token_bytes(const HParams& hp, KvTypes types, int layer) {
  return kv_row_bytes(types, hp.kv_row(layer));
}

int64_t kv_row_bytes(KvTypes types, int64_t elements) {
  return static_cast<int64_t>(ggml_row_size(to_ggml(types.k), elements) +
                              ggml_row_size(to_ggml(types.v), elements));
}

void check_kv_types(const HParams& hp, KvTypes types) {
  for (int layer = 0; layer < hp.n_layer; ++layer)
    for (auto type : {types.k, types.v})
      if (const int64_t block = ggml_blck_size(to_ggml(type)); hp.heads(layer).d_head % block != 0)
        throw Error(fmt::format(
            "a {} KV cache needs a head size that is a multiple of {}; this model's is {}; use f16 or bf16",
            to_string(type), block, hp.heads(layer).d_head));
}

}  // namespace windowkv
