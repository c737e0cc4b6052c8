#include "model/families/pre_norm_decoder.h"

#include <algorithm>

namespace windowkv {

void PreNormDecoder::declare(WeightLoader& loader, const HParams& hp, Weights& weights) const {
  const int64_t q_row = static_cast<int64_t>(hp.n_head) * hp.d_head;
  const int64_t kv_row = hp.kv_row();
  int layer = 0;
  auto add = [&](ggml_tensor*& slot, const std::string& name, std::initializer_list<int64_t> shape,
                 WeightUse use, Presence presence = Presence::kRequired) {
    if (presence == Presence::kNone) return false;
    return loader.add(slot, name, shape, use, layer, presence == Presence::kRequired);
  };
  using enum WeightUse;

  add(weights.token_embd, "token_embd.weight", {hp.n_embd, hp.n_vocab}, kRows);
  layer = hp.n_layer - 1;
  add(weights.output_norm, "output_norm.weight", {hp.n_embd}, kElementwise);
  if (!add(weights.output, "output.weight", {hp.n_embd, hp.n_vocab}, kMatMul, Presence::kOptional))
    add(weights.output, "token_embd.weight", {hp.n_embd, hp.n_vocab}, kMatMul);

  weights.layers.resize(static_cast<size_t>(hp.n_layer));
  for (layer = 0; layer < hp.n_layer; ++layer) {
    auto& w = weights.layers[static_cast<size_t>(layer)];
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    add(w.rope_freqs, "rope_freqs.weight", {hp.n_rot / 2}, kElementwise, Presence::kOptional);
    add(w.attn_norm, prefix + "attn_norm.weight", {hp.n_embd}, kElementwise);
    add(w.wq, prefix + "attn_q.weight", {hp.n_embd, q_row}, kMatMul);
    add(w.wk, prefix + "attn_k.weight", {hp.n_embd, kv_row}, kMatMul);
    add(w.wv, prefix + "attn_v.weight", {hp.n_embd, kv_row}, kMatMul);
    add(w.wo, prefix + "attn_output.weight", {q_row, hp.n_embd}, kMatMul);
    add(w.bq, prefix + "attn_q.bias", {q_row}, kElementwise, qkv_bias());
    add(w.bk, prefix + "attn_k.bias", {kv_row}, kElementwise, qkv_bias());
    add(w.bv, prefix + "attn_v.bias", {kv_row}, kElementwise, qkv_bias());
    add(w.bo, prefix + "attn_output.bias", {hp.n_embd}, kElementwise, output_bias());
    add(w.q_norm, prefix + "attn_q_norm.weight", {hp.d_head}, kElementwise, qk_norm());
    add(w.k_norm, prefix + "attn_k_norm.weight", {hp.d_head}, kElementwise, qk_norm());
    add(w.ffn_norm, prefix + "ffn_norm.weight", {hp.n_embd}, kElementwise);
    add(w.gate, prefix + "ffn_gate.weight", {hp.n_embd, hp.n_ff}, kMatMul);
    add(w.up, prefix + "ffn_up.weight", {hp.n_embd, hp.n_ff}, kMatMul);
    add(w.down, prefix + "ffn_down.weight", {hp.n_ff, hp.n_embd}, kMatMul);
  }
}

namespace {

ggml_tensor* rms_norm(ggml_context* ctx, const HParams& hp, ggml_tensor* x, ggml_tensor* weight) {
  return ggml_mul(ctx, ggml_rms_norm(ctx, x, hp.rms_eps), weight);
}

ggml_tensor* linear(ggml_context* ctx, ggml_tensor* weight, ggml_tensor* bias, ggml_tensor* x) {
  auto* y = ggml_mul_mat(ctx, weight, x);
  return bias != nullptr ? ggml_add(ctx, y, bias) : y;
}

ggml_tensor* rope(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer, ggml_tensor* x,
                  ggml_tensor* pos, Family::Rotation rotation = Family::Rotation::kApply) {
  const auto& w = weights.layers[static_cast<size_t>(layer)];
  const auto spec = hp.attention_of(layer);
  const auto op = rotation == Family::Rotation::kApply ? ggml_rope_ext : ggml_rope_ext_back;
  // beta_fast and beta_slow are YaRN's published constants.
  return op(ctx, x, pos, w.rope_freqs, hp.n_rot, hp.rope_mode, hp.rope_n_ctx_orig, spec.rope_base,
            spec.rope_freq_scale, hp.rope_ext_factor, hp.rope_attn_factor, 32.0f, 1.0f);
}

}  // namespace

Family::Qkv PreNormDecoder::attention_inputs(ggml_context* ctx, const HParams& hp, const Weights& weights,
                                             int layer, ggml_tensor* x, ggml_tensor* pos, Parts parts) const {
  const auto& w = weights.layers[static_cast<size_t>(layer)];
  const int64_t t = x->ne[1];
  auto* h = rms_norm(ctx, hp, x, w.attn_norm);
  auto heads = [&](ggml_tensor* weight, ggml_tensor* bias, int64_t count) {
    return ggml_reshape_3d(ctx, linear(ctx, weight, bias, h), hp.d_head, count, t);
  };
  auto rotated = [&](ggml_tensor* y, ggml_tensor* norm) {
    if (norm != nullptr) y = rms_norm(ctx, hp, y, norm);
    return rope(ctx, hp, weights, layer, y, pos);
  };
  Qkv out;
  if (parts & kQ) out.q = rotated(heads(w.wq, w.bq, hp.n_head), w.q_norm);
  if (parts & kKv) {
    out.k = rotated(heads(w.wk, w.bk, hp.n_head_kv), w.k_norm);
    out.v = heads(w.wv, w.bv, hp.n_head_kv);
  }
  return out;
}

ggml_tensor* PreNormDecoder::rotate(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                                    ggml_tensor* x, ggml_tensor* pos, Rotation rotation) const {
  return rope(ctx, hp, weights, layer, x, pos, rotation);
}

ggml_tensor* PreNormDecoder::finish_layer(ggml_context* ctx, const HParams& hp, const Weights& weights,
                                          int layer, ggml_tensor* x, ggml_tensor* attention) const {
  const auto& w = weights.layers[static_cast<size_t>(layer)];
  auto* mid = ggml_add(ctx, linear(ctx, w.wo, w.bo, attention), x);
  auto* h = rms_norm(ctx, hp, mid, w.ffn_norm);
  auto* gated = ggml_swiglu_split(ctx, ggml_mul_mat(ctx, w.gate, h), ggml_mul_mat(ctx, w.up, h));
  return ggml_add(ctx, ggml_mul_mat(ctx, w.down, gated), mid);
}

ggml_tensor* PreNormDecoder::embed(ggml_context* ctx, const HParams&, const Weights& weights,
                                   ggml_tensor* tokens) const {
  return ggml_get_rows(ctx, weights.token_embd, tokens);
}

ggml_tensor* PreNormDecoder::logits(ggml_context* ctx, const HParams& hp, const Weights& weights,
                                    ggml_tensor* x) const {
  return ggml_mul_mat(ctx, weights.output, rms_norm(ctx, hp, x, weights.output_norm));
}

}  // namespace windowkv
