// ByteDance's Seed-OSS: llama with biases on Q, K and V and another name for the second norm.
#include <ggml.h>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class SeedOss final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "seed_oss"; }
  void read(const GgufFile&, HParams& hp) const override { hp.rope_mode = GGML_ROPE_TYPE_NEOX; }

 protected:
  Presence qkv_bias() const override { return Presence::kOptional; }
  const char* ffn_norm_name() const override { return "post_attention_norm.weight"; }
};

}  // namespace

const Family* seed_oss_family() {
  static const SeedOss family;
  return &family;
}

}  // namespace windowkv
