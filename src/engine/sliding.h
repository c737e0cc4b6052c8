#pragma once

#include <memory>

#include "windowkv/model.h"
#include "windowkv/policy.h"

namespace windowkv {

/// Layers with a sliding window keep what it shows, recurrent ones and those that read another's K and V no
/// rows at all, and are no policy's business: a policy is told of the other layers, numbered as if there were
/// no more. Groups leave out layers without rows.

/// What the policy decides for a prompt of n tokens, layer by layer of the model.
std::unique_ptr<Selector> start_selector(const HParams& hp, const Policy& policy, int64_t n);

}  // namespace windowkv
