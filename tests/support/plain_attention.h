#pragma once

#include <functional>
#include <vector>

#include "windowkv/model.h"

struct ggml_tensor;

namespace windowkv::test {

/// A tensor's elements, whatever its type and device.
std::vector<float> floats_of(ggml_tensor* t);

/// By plain loops: the attention that one token's queries q [d_head, n_head] give each of n keys, summed over
/// the query heads.
std::vector<double> attention_of(const HParams& hp, const std::vector<float>& q, size_t n,
                                 const std::function<const float*(size_t token, size_t kv_head)>& key);

/// The `count` numbers of the highest values, ascending; of equal ones the earlier.
std::vector<int32_t> highest_of(const std::vector<double>& values, size_t count);

}  // namespace windowkv::test
