// Llama 2/3.x, Mistral, Mixtral, SmolLM and their kin. Q and K rows are permuted in the GGUF, so RoPE turns
// neighbouring pairs.
#include <ggml.h>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class Llama final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "llama"; }
  void read(const GgufFile&, HParams& hp) const override { hp.rope_mode = GGML_ROPE_TYPE_NORMAL; }

 protected:
  Presence qkv_bias() const override { return Presence::kOptional; }
  Presence output_bias() const override { return Presence::kOptional; }
  Presence mixture() const override { return Presence::kOptional; }
};

}  // namespace

const Family* llama_family() {
  static const Llama family;
  return &family;
}

}  // namespace windowkv
