#pragma once

#include "model/family.h"

namespace windowkv {

/// The common shape of today's decoders: RMS norms around attention and a SwiGLU feed-forward or a mixture of
/// them, RoPE on Q and K, grouped-query attention. Biases and norms are applied where the weights are there,
/// the scales where HParams has them.
class PreNormDecoder : public Family {
 public:
  void declare(WeightLoader& loader, const HParams& hp, Weights& weights) const override;
  Qkv attention_inputs(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                       ggml_tensor* x, ggml_tensor* pos, Parts parts) const override;
  ggml_tensor* recur(Graph& graph, const HParams& hp, const Weights& weights, int layer, ggml_tensor* x,
                     std::span<const StateRun> runs) const override;
  ggml_tensor* rotate(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer, ggml_tensor* x,
                      ggml_tensor* pos, Rotation rotation) const override;
  ggml_tensor* finish_layer(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                            ggml_tensor* x, ggml_tensor* attention, const LayerTokens& tokens) const override;
  ggml_tensor* embed(ggml_context* ctx, const HParams& hp, const Weights& weights,
                     ggml_tensor* tokens) const override;
  ggml_tensor* embed_in_layer(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                              ggml_tensor* tokens) const override;
  ggml_tensor* logits(ggml_context* ctx, const HParams& hp, const Weights& weights,
                      ggml_tensor* x) const override;

 protected:
  virtual Presence qkv_bias() const { return Presence::kNone; }
  virtual Presence output_bias() const { return Presence::kNone; }
  virtual Presence sinks() const { return Presence::kNone; }

  /// Where V's projection is missing, K's is V's too, before norm and RoPE.
  virtual Presence wv() const { return Presence::kRequired; }
  /// A norm, without weights, on each head of V.
  virtual bool v_norm() const { return false; }
  /// A factor on all that a layer puts out.
  virtual Presence output_scale() const { return Presence::kNone; }

  virtual Presence qk_norm() const { return Presence::kNone; }
  /// What a norm of Q and K takes together, and when.
  enum class QkNorm { kHead, kRotatedHead, kAllHeads };
  virtual QkNorm qk_norm_kind() const { return QkNorm::kHead; }

  /// Norms of what attention and feed-forward read, and of what they add.
  virtual Presence pre_norms() const { return Presence::kRequired; }
  virtual Presence post_norms() const { return Presence::kNone; }
  virtual const char* ffn_norm_name() const { return "ffn_norm.weight"; }

  virtual Presence mixture() const { return Presence::kNone; }
  virtual Presence router_bias() const { return Presence::kNone; }
  /// Of the router and of what each expert multiplies.
  virtual Presence expert_biases() const { return Presence::kNone; }
};

}  // namespace windowkv
