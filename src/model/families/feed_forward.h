#pragma once

#include "model/family.h"

namespace windowkv {

/// What a file says of its experts, Mixture::experts 0 where it says nothing. `hp`: family and n_ff. Throws
/// Error for numbers that are out of range and kinds of routing that feed_forward() does not compute.
Mixture read_mixture(const GgufFile& file, const HParams& hp);

/// Asks for a layer's gate, up and down, of a mixture those of its experts, the router and the shared expert.
/// `router_bias`: whether there is one.
void declare_feed_forward(WeightLoader& loader, const HParams& hp, int layer, LayerWeights& w,
                          Presence router_bias, Presence expert_biases);

/// SwiGLU, or in a mixture what the best experts of each token give by their weights: hidden states h
/// [n_embd, t] F32 behind their norm → [n_embd, t] F32.
ggml_tensor* feed_forward(ggml_context* ctx, const HParams& hp, const LayerWeights& w, ggml_tensor* h);

/// Where experts are beside a dense feed-forward (Mixture::beside_dense): a layer's middle [n_embd, t] F32,
/// which each part reads behind a norm of its own, as the router does behind one without weights → [n_embd,
/// t] F32.
ggml_tensor* feed_forward_beside(ggml_context* ctx, const HParams& hp, const LayerWeights& w,
                                 ggml_tensor* mid);

}  // namespace windowkv
