#pragma once

#include <cstdint>
#include <vector>

#include "backend/row_kernels.h"

namespace windowkv {

/// What a token attends to of one layer where that was chosen again: tokens of a prefix store, and of the
/// generated ones, whose rows the cache holds in order. Lists are ascending, one for all KV heads or one for
/// each.
struct ChosenRows {
  HostRows k, v;                             ///< the store's, token i in row i
  std::vector<std::vector<int32_t>> stored;  ///< tokens of the store
  std::vector<std::vector<int32_t>> cached;  ///< rows of the cache, below `newest`
  int64_t newest = 0;                        ///< rows of the cache from here on are attended to unasked
};

}  // namespace windowkv
