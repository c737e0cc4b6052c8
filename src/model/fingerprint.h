#pragma once

#include <string>

#include "model/gguf_file.h"
#include "windowkv/model.h"

namespace windowkv {

/// What tells models apart but not the types that their weights are stored in: a hash, 16 hex digits, over
/// the sizes and the attention's and output's norm weights, which every quantization leaves in F32. Names do
/// not count: the same model has several.
std::string fingerprint(const GgufFile& file, const HParams& hp);

}  // namespace windowkv
