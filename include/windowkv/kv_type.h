#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "windowkv/model.h"

namespace windowkv {

/// How an element of K or V is stored in a cache. Quantized types share one scale per block of 32 elements:
/// q8_0 takes 8.5 bits per element, q4_0 4.5.
enum class KvType { kF16, kBf16, kQ8_0, kQ4_0 };

std::string_view to_string(KvType type);
/// Parses "f16", "bf16", "q8_0" or "q4_0"; throws Error for anything else.
KvType parse_kv_type(std::string_view text);
std::vector<std::string> kv_type_names();

/// The types of K and of V.
struct KvTypes {
  KvType k = KvType::kF16;
  KvType v = KvType::kF16;
  bool operator==(const KvTypes&) const = default;
};

/// Bytes of one token's K and V in one layer that sees all tokens, or in that layer.
int64_t kv_token_bytes(const HParams& hp, KvTypes types);
int64_t kv_token_bytes(const HParams& hp, KvTypes types, int layer);

}  // namespace windowkv
