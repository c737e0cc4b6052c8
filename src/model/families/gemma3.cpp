// Gemma 3 (text): norms before and behind attention and feed-forward, GELU, five layers with a sliding window
// to each that sees everything.
#include <ggml.h>

#include <cmath>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class Gemma3 final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "gemma3"; }
  bool may_slide() const override { return true; }
  void read(const GgufFile& file, HParams& hp) const override {
    hp.rope_mode = GGML_ROPE_TYPE_NEOX;
    hp.embedding_scale = std::sqrt(static_cast<float>(hp.n_embd));
    hp.activation = HParams::Activation::kGelu;
    // The 27B model alone scales by the width a head would have had.
    if (hp.n_layer == 62)
      hp.attention_scale = std::sqrt(static_cast<float>(hp.n_head) / static_cast<float>(hp.n_embd));
    const float base = file.find_float(hp.family + ".rope.freq_base_swa").value_or(10000.0f);
    slide(file, hp, {.rope_base = base}, 6);
  }

 protected:
  Presence qk_norm() const override { return Presence::kRequired; }
  Presence post_norms() const override { return Presence::kRequired; }
};

}  // namespace

const Family* gemma3_family() {
  static const Gemma3 family;
  return &family;
}

}  // namespace windowkv
