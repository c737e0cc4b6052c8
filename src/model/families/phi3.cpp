// Phi-3, Phi-3.5 and Phi-4: Q, K and V are one matrix, and so are gate and up. The long models bring two sets
// of RoPE factors.
#include <ggml.h>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class Phi3 final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "phi3"; }
  void read(const GgufFile&, HParams& hp) const override { hp.rope_mode = GGML_ROPE_TYPE_NEOX; }
  bool may_slide() const override { return true; }
};

}  // namespace

const Family* phi3_family() {
  static const Phi3 family;
  return &family;
}

}  // namespace windowkv
