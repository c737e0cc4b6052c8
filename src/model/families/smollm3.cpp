// SmolLM3: llama, but every fourth layer does without RoPE.
#include <ggml.h>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class SmolLm3 final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "smollm3"; }
  void read(const GgufFile&, HParams& hp) const override {
    hp.rope_mode = GGML_ROPE_TYPE_NORMAL;
    for (size_t layer = 3; layer < hp.attention.size(); layer += 4) hp.attention[layer].rope = false;
  }

 protected:
  Presence qkv_bias() const override { return Presence::kOptional; }
};

}  // namespace

const Family* smollm3_family() {
  static const SmolLm3 family;
  return &family;
}

}  // namespace windowkv
