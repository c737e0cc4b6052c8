#pragma once

#include <cstdint>
#include <functional>
#include <optional>

namespace windowkv::eval::ruler {

/// A number in [low, high] whose cost is at most `limit` while that of the next number is more (or is not
/// allowed): the largest one that fits, for costs that grow. None where `low` costs too much already. Asks
/// for few costs where they grow about evenly.
std::optional<int64_t> largest_fitting(int64_t low, int64_t high, int64_t limit,
                                       const std::function<int64_t(int64_t)>& cost);

}  // namespace windowkv::eval::ruler
