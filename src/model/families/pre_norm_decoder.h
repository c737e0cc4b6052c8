#pragma once

#include "model/family.h"

namespace windowkv {

/// The common shape of today's decoders: RMS norm before attention and before a SwiGLU feed-forward, RoPE on
/// Q and K, grouped-query attention. Biases and per-head Q/K norms are applied where the weights are there.
class PreNormDecoder : public Family {
 public:
  void declare(WeightLoader& loader, const HParams& hp, Weights& weights) const override;
  Qkv attention_inputs(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                       ggml_tensor* x, ggml_tensor* pos, Parts parts) const override;
  ggml_tensor* rotate(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer, ggml_tensor* x,
                      ggml_tensor* pos, Rotation rotation) const override;
  ggml_tensor* finish_layer(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                            ggml_tensor* x, ggml_tensor* attention) const override;
  ggml_tensor* embed(ggml_context* ctx, const HParams& hp, const Weights& weights,
                     ggml_tensor* tokens) const override;
  ggml_tensor* logits(ggml_context* ctx, const HParams& hp, const Weights& weights,
                      ggml_tensor* x) const override;

 protected:
  enum class Presence { kNone, kOptional, kRequired };
  virtual Presence qkv_bias() const { return Presence::kNone; }
  virtual Presence qk_norm() const { return Presence::kNone; }
  virtual Presence output_bias() const { return Presence::kNone; }
};

}  // namespace windowkv
