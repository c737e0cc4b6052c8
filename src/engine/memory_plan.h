#pragma once

#include "windowkv/engine.h"

namespace windowkv {

/// What policies are told of a prompt of n tokens.
inline PromptShape prompt_shape(const HParams& hp, int64_t n) {
  return {n, hp.n_layer, hp.n_head, hp.n_head_kv, hp.d_head, hp.layer_shares};
}

/// What prefilling n tokens takes, from sizes alone. `blas`: large products go to BLAS.
MemoryPlan plan_memory(const HParams& hp, int64_t n, const Policy& policy, int64_t reserve,
                       const EngineOptions& options, bool blas);

}  // namespace windowkv
