// Gemma 3 (text): norms before and after attention and feed-forward, GELU, five layers with a sliding window
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

  void read(const GgufFile& file, HParams& hp) const override {
    hp.rope_mode = GGML_ROPE_TYPE_NEOX;
    // The 27B model alone scales by the width a head would have had.
    if (hp.n_layer == 62)
      hp.attention_scale = std::sqrt(static_cast<float>(hp.n_head) / static_cast<float>(hp.n_embd));
    const int window = read_window(file, hp);
    const int period = file.find_int(hp.family + ".attention.sliding_window_pattern").value_or(6);
    const float base = file.find_float(hp.family + ".rope.freq_base_swa").value_or(10000.0f);
    slide(file, hp, {window, base, 1.0f}, period);
  }

  void declare(WeightLoader& loader, const HParams& hp, Weights& weights) const override {
    PreNormDecoder::declare(loader, hp, weights);
    for (int layer = 0; layer < hp.n_layer; ++layer) {
      auto& w = weights.layers[static_cast<size_t>(layer)];
      const std::string prefix = "blk." + std::to_string(layer) + ".";
      loader.add(w.attn_post_norm, prefix + "post_attention_norm.weight", {hp.n_embd},
                 WeightUse::kElementwise, layer);
      loader.add(w.ffn_post_norm, prefix + "post_ffw_norm.weight", {hp.n_embd}, WeightUse::kElementwise,
                 layer);
    }
  }

  ggml_tensor* embed(ggml_context* ctx, const HParams& hp, const Weights& weights,
                     ggml_tensor* tokens) const override {
    return ggml_scale(ctx, PreNormDecoder::embed(ctx, hp, weights, tokens),
                      std::sqrt(static_cast<float>(hp.n_embd)));
  }

  ggml_tensor* finish_layer(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                            ggml_tensor* x, ggml_tensor* attention) const override {
    const auto& w = weights.layers[static_cast<size_t>(layer)];
    auto norm = [&](ggml_tensor* y, ggml_tensor* weight) {
      return ggml_mul(ctx, ggml_rms_norm(ctx, y, hp.rms_eps), weight);
    };
    auto* mid = ggml_add(ctx, norm(ggml_mul_mat(ctx, w.wo, attention), w.attn_post_norm), x);
    auto* h = norm(mid, w.ffn_norm);
    auto* gated = ggml_geglu_split(ctx, ggml_mul_mat(ctx, w.gate, h), ggml_mul_mat(ctx, w.up, h));
    return ggml_add(ctx, norm(ggml_mul_mat(ctx, w.down, gated), w.ffn_post_norm), mid);
  }

 protected:
  Presence qk_norm() const override { return Presence::kRequired; }
};

}  // namespace

const Family* gemma3_family() {
  static const Gemma3 family;
  return &family;
}

}  // namespace windowkv
