#pragma once

#include <ggml.h>

#include "windowkv/kv_type.h"

namespace windowkv {

ggml_type to_ggml(KvType type);

/// Throws Error where a head's elements do not make whole blocks of the types.
void check_kv_types(const HParams& hp, KvTypes types);

}  // namespace windowkv
