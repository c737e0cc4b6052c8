#pragma once

#include "backend/backend.h"
#include "windowkv/engine.h"

namespace windowkv {

/// What policies are told of a prompt of n tokens.
inline PromptShape prompt_shape(const HParams& hp, int64_t n) {
  return {n, hp.n_layer, hp.n_head, hp.n_head_kv, hp.d_head, hp.layer_shares};
}

/// Throws Error for room that cannot be.
void check_reserve(int64_t reserve);

/// " on RPC0 (127.0.0.1:50052), layers 0-5", for messages; "" where the CPU is all there is.
std::string place_text(const Backends& backends, size_t device);

}  // namespace windowkv
