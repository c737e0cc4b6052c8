#pragma once

#include <ggml.h>

#include "windowkv/kv_type.h"

namespace windowkv {

ggml_type to_ggml(KvType type);

/// Bytes of so many elements of K and as many of V.
int64_t kv_row_bytes(KvTypes types, int64_t elements);

/// Throws Error where a head's elements do not make whole blocks of the types.
void check_kv_types(const HParams& hp, KvTypes types);

}  // namespace windowkv
