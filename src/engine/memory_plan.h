#pragma once

#include "windowkv/engine.h"

namespace windowkv {

/// What prefilling n tokens takes, from sizes alone.
MemoryPlan plan_memory(const HParams& hp, int64_t n, const Policy& policy, int64_t reserve,
                       const EngineOptions& options);

}  // namespace windowkv
