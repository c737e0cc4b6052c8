#include "model/families/layer_embedding.h"

#include <fmt/format.h>

#include <cmath>

namespace windowkv {

void declare_layer_embeddings(WeightLoader& loader, const HParams& hp, Weights& weights) {
  using enum WeightUse;
  const int64_t width = hp.n_embd_layer;
  loader.add(weights.layer_embd, "per_layer_token_embd.weight", {width * hp.n_layer, hp.n_vocab}, kRows, 0);
  const auto type = loader.file().find_tensor("per_layer_token_embd.weight")->type;
  if (width % ggml_blck_size(type) != 0)
    loader.file().fail(
        fmt::format("not supported: embeddings of {} numbers for each layer of type {}, whose blocks have {}",
                    width, ggml_type_name(type), ggml_blck_size(type)));
  std::vector<WeightLoader::Stacked> parts;
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    auto& w = weights.layers[static_cast<size_t>(layer)];
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    parts.push_back({&w.token_proj, width, layer});
    loader.add(w.token_norm, "per_layer_proj_norm.weight", {width}, kElementwise, layer);
    loader.add(w.token_gate, prefix + "inp_gate.weight", {hp.n_embd, width}, kMatMul, layer);
    loader.add(w.token_out, prefix + "proj.weight", {width, hp.n_embd}, kMatMul, layer);
    loader.add(w.token_post_norm, prefix + "post_norm.weight", {hp.n_embd}, kElementwise, layer);
  }
  loader.add_stacked(parts, "per_layer_model_proj.weight", hp.n_embd);
}

ggml_tensor* layer_embedding_rows(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                                  ggml_tensor* tokens) {
  auto* all = weights.layer_embd;
  auto* part = ggml_view_2d(ctx, all, hp.n_embd_layer, hp.n_vocab, all->nb[1],
                            ggml_row_size(all->type, int64_t{layer} * hp.n_embd_layer));
  // A weight as the whole is, so that the scheduler looks rows up where the table lies.
  ggml_backend_view_init(part);
  return ggml_get_rows(ctx, part, tokens);
}

ggml_tensor* add_layer_embedding(ggml_context* ctx, const HParams& hp, const LayerWeights& w, ggml_tensor* x,
                                 const Family::LayerTokens& tokens) {
  auto norm = [&](ggml_tensor* y, ggml_tensor* weight) {
    return ggml_mul(ctx, ggml_rms_norm(ctx, y, hp.rms_eps), weight);
  };
  auto* projected = ggml_mul_mat(ctx, w.token_proj, tokens.embedded);
  projected = ggml_scale(ctx, projected, 1.0f / std::sqrt(static_cast<float>(hp.n_embd)));
  auto* rows = ggml_scale(ctx, tokens.rows, std::sqrt(static_cast<float>(hp.n_embd_layer)));
  auto* both = ggml_add(ctx, norm(projected, w.token_norm), rows);
  both = ggml_scale(ctx, both, 1.0f / std::sqrt(2.0f));
  auto* gated = ggml_mul(ctx, ggml_gelu(ctx, ggml_mul_mat(ctx, w.token_gate, x)), both);
  return ggml_add(ctx, x, norm(ggml_mul_mat(ctx, w.token_out, gated), w.token_post_norm));
}

}  // namespace windowkv
