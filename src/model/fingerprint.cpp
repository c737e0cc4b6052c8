#include "model/fingerprint.h"

#include <fmt/format.h>

#include <vector>

#include "support/hash.h"

namespace windowkv {

std::string fingerprint(const GgufFile& file, const HParams& hp) {
  uint64_t hash =
      fnv1a64_step(kFnvStart, fmt::format("{} {} {} {} {} {} {}", hp.family, hp.n_layer, hp.n_embd, hp.n_head,
                                          hp.n_head_kv, hp.d_head, hp.n_ff));
  const auto norm = file.find_tensor("output_norm.weight");
  const auto to_float = norm ? ggml_get_type_traits(norm->type)->to_float : nullptr;
  if (to_float != nullptr) {
    // BF16 and F16 count as the numbers they are.
    std::vector<float> values(static_cast<size_t>(norm->ne[0]));
    to_float(norm->data, values.data(), norm->ne[0]);
    hash = fnv1a64_step(hash, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  } else if (norm) {
    hash = fnv1a64_step(hash, {reinterpret_cast<const char*>(norm->data), norm->bytes});
  }
  return hash_text(hash);
}

}  // namespace windowkv
