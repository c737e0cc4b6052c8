// Ministral 3 and later Mistrals: llama whose queries grow with their position.
#include <ggml.h>

#include <cmath>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class Mistral3 final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "mistral3"; }
  void read(const GgufFile& file, HParams& hp) const override {
    hp.rope_mode = GGML_ROPE_TYPE_NORMAL;
    auto key = [&](const char* name) { return hp.family + "." + name; };
    hp.query_growth = file.find_float(key("attention.temperature_scale")).value_or(0.0f);
    if (hp.query_growth != 0 && hp.rope_n_ctx_orig < 1)
      file.fail(key("rope.scaling.original_context_length") + " is out of range");
    const float multiplier = file.find_float(key("rope.scaling.yarn_log_multiplier")).value_or(0.0f);
    // What YaRN multiplies by is taken back, or a part of it.
    if (hp.rope_ext_factor != 0 && hp.rope_freq_scale < 1)
      hp.rope_attn_factor /= 1.0f + 0.1f * multiplier * std::log(1.0f / hp.rope_freq_scale);
  }

  Qkv attention_inputs(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                       ggml_tensor* x, ggml_tensor* pos, Parts parts) const override {
    auto out = PreNormDecoder::attention_inputs(ctx, hp, weights, layer, x, pos, parts);
    if (out.q == nullptr || hp.query_growth == 0) return out;
    // 1 + growth·ln(1 + ⌊position / context⌋), of the context before RoPE scaling; the half keeps multiples
    // of it from being rounded down.
    const float context = 1.0f / static_cast<float>(hp.rope_n_ctx_orig);
    auto* times =
        ggml_floor(ctx, ggml_scale_bias(ctx, ggml_cast(ctx, pos, GGML_TYPE_F32), context, 0.5f * context));
    auto* growth = ggml_log(ctx, ggml_scale_bias(ctx, times, 1.0f, 1.0f));
    growth = ggml_scale_bias(ctx, growth, hp.query_growth, 1.0f);
    out.q = ggml_mul(ctx, out.q, ggml_reshape_3d(ctx, growth, 1, 1, pos->ne[0]));
    return out;
  }

 protected:
  Presence qkv_bias() const override { return Presence::kOptional; }
  Presence output_bias() const override { return Presence::kOptional; }
  Presence mixture() const override { return Presence::kOptional; }
};

}  // namespace

const Family* mistral3_family() {
  static const Mistral3 family;
  return &family;
}

}  // namespace windowkv
