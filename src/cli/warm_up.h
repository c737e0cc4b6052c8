#pragma once

#include "cli/options.h"

namespace windowkv::cli {

/// Has GPUs compile the kernels that reading a prompt, choosing and decoding take, and says so where that
/// lasts: Vulkan's drivers need up to a minute for what they have not kept from an earlier process. Nothing
/// where the CPU or a server holds layers, or --no-warmup says so.
void warm_up(const Model& model, const ModelFlags& flags);

}  // namespace windowkv::cli
