#pragma once

#include "model/family.h"

namespace windowkv {

/// Embeddings that each layer has for itself (Gemma 4 E2B and E4B): a second table by token id, as wide as
/// all layers' parts side by side, and a projection of the first embedding. What a layer puts out takes in
/// its part of both.

/// Asks for the table and each layer's tensors. Throws Error for a type whose blocks layers would share.
void declare_layer_embeddings(WeightLoader& loader, const HParams& hp, Weights& weights);

/// Family::embed_in_layer().
ggml_tensor* layer_embedding_rows(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                                  ggml_tensor* tokens);

/// A layer's output x [n_embd, t] → the same with its part of the embeddings.
ggml_tensor* add_layer_embedding(ggml_context* ctx, const HParams& hp, const LayerWeights& w, ggml_tensor* x,
                                 const Family::LayerTokens& tokens);

}  // namespace windowkv
