// GLM-4.5 and 4.6: a mixture that rates experts one by one and corrects its choice by a bias, with an expert
// for every token and dense layers first. Layers at the end that predict further tokens are left out.
#include <ggml.h>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class Glm4Moe final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "glm4moe"; }
  void read(const GgufFile& file, HParams& hp) const override {
    hp.rope_mode = GGML_ROPE_TYPE_NEOX;
    auto key = [&](const char* name) { return hp.family + "." + name; };
    drop_further_layers(file, hp);
    auto& m = hp.mixture;
    const int shared = file.find_int(key("expert_shared_count")).value_or(0);
    if (shared > 64) file.fail(key("expert_shared_count") + " is " + std::to_string(shared));
    m.n_ff_shared = m.n_ff * shared;
    // 0 stands for no factor, as in libllama.
    if (const float scale = file.find_float(key("expert_weights_scale")).value_or(0.0f); scale != 0)
      m.scale = scale;
    m.normalized = file.find_int(key("expert_weights_norm")).value_or(0) != 0;
    const int gating = file.find_int(key("expert_gating_func")).value_or(0);
    if (gating > 2) file.fail("not supported: expert_gating_func " + std::to_string(gating));
    m.rating = gating == 1 ? Mixture::Rating::kSoftmax : Mixture::Rating::kSigmoid;
  }

 protected:
  Presence qkv_bias() const override { return Presence::kOptional; }
  Presence qk_norm() const override { return Presence::kOptional; }
  const char* ffn_norm_name() const override { return "post_attention_norm.weight"; }
  Presence mixture() const override { return Presence::kRequired; }
  Presence router_bias() const override { return Presence::kRequired; }
};

}  // namespace

const Family* glm4moe_family() {
  static const Glm4Moe family;
  return &family;
}

}  // namespace windowkv
