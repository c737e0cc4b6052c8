// gpt-oss: a mixture with biases everywhere, attention sinks, and a sliding window in every other layer.
#include <ggml.h>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class GptOss final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "gpt-oss"; }
  bool may_slide() const override { return true; }
  void read(const GgufFile& file, HParams& hp) const override {
    hp.rope_mode = GGML_ROPE_TYPE_NEOX;
    hp.activation = HParams::Activation::kClampedSilu;
    hp.mixture.rating = Mixture::Rating::kSoftmaxOfUsed;
    hp.mixture.normalized = false;
    slide(file, hp, hp.attention.front(), 2);
  }

 protected:
  Presence qkv_bias() const override { return Presence::kRequired; }
  Presence output_bias() const override { return Presence::kRequired; }
  Presence sinks() const override { return Presence::kRequired; }
  const char* ffn_norm_name() const override { return "post_attention_norm.weight"; }
  Presence mixture() const override { return Presence::kRequired; }
  Presence expert_biases() const override { return Presence::kRequired; }
};

}  // namespace

const Family* gpt_oss_family() {
  static const GptOss family;
  return &family;
}

}  // namespace windowkv
