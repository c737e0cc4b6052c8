// IBM's Granite, dense and as a mixture of experts: llama with factors on embedding, attention, what layers
// add and logits.
#include <ggml.h>

#include <cmath>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class Granite final : public PreNormDecoder {
 public:
  explicit Granite(std::string_view arch) : arch_(arch) {}
  std::string_view arch() const override { return arch_; }
  void read(const GgufFile& file, HParams& hp) const override {
    hp.rope_mode = GGML_ROPE_TYPE_NORMAL;
    auto key = [&](const char* name) { return hp.family + "." + name; };
    // 0 stands for no factor, as in libllama.
    auto factor = [&](const char* name) {
      const float value = file.find_float(key(name)).value_or(0.0f);
      return value != 0 ? value : 1.0f;
    };
    hp.embedding_scale = factor("embedding_scale");
    hp.residual_scale = factor("residual_scale");
    hp.logit_scale = 1.0f / file.get_float(key("logit_scale"));
    if (!std::isfinite(hp.logit_scale)) file.fail(key("logit_scale") + " is 0");
    if (file.find_int(key("rope.scaling.finetuned")).value_or(1) == 0)
      for (auto& layer : hp.attention) layer.rope = false;
  }

 protected:
  Presence output_bias() const override { return Presence::kOptional; }
  Presence mixture() const override { return Presence::kOptional; }

 private:
  std::string_view arch_;
};

}  // namespace

const Family* granite_family() {
  static const Granite family("granite");
  return &family;
}

const Family* granitemoe_family() {
  static const Granite family("granitemoe");
  return &family;
}

}  // namespace windowkv
