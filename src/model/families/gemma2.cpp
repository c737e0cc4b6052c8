// Gemma 2: norms before and behind attention and feed-forward, GELU, logits of attention and of tokens
// bounded by tanh, a sliding window in every other layer.
#include <ggml.h>

#include <cmath>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class Gemma2 final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "gemma2"; }
  bool may_slide() const override { return true; }
  void read(const GgufFile& file, HParams& hp) const override {
    hp.rope_mode = GGML_ROPE_TYPE_NEOX;
    hp.embedding_scale = std::sqrt(static_cast<float>(hp.n_embd));
    hp.activation = HParams::Activation::kGelu;
    // The 27B model alone scales by the width a head would have had. A file's own scale is not read.
    const int width = hp.n_layer == 46 ? hp.n_embd / hp.n_head : hp.d_head;
    hp.attention_scale = 1.0f / std::sqrt(static_cast<float>(width));
    hp.attention_softcap = read_softcap(file, hp, "attn_logit_softcapping", 50);
    hp.logit_softcap = read_softcap(file, hp, "final_logit_softcapping", 30);
    auto sliding = hp.attention.front();
    sliding.window = 4096;
    sliding.rope_base = file.find_float(hp.family + ".rope.freq_base_swa").value_or(sliding.rope_base);
    slide(file, hp, sliding, 2);
  }

 protected:
  Presence post_norms() const override { return Presence::kRequired; }
};

}  // namespace

const Family* gemma2_family() {
  static const Gemma2 family;
  return &family;
}

}  // namespace windowkv
