#include "model/families/pre_norm_decoder.h"

#include "model/families/delta_net.h"
#include "model/families/feed_forward.h"
#include "model/families/layer_embedding.h"

namespace windowkv {

namespace {

/// Llama 3.1's divisors of RoPE's frequencies, or those of models with two sets, for short contexts and for
/// long ones. Keys keep their rotation, so one set has to serve a model: what libllama takes for the whole
/// context.
void declare_rope_factors(WeightLoader& loader, const HParams& hp, int layer, LayerWeights& w) {
  if (!hp.attention_of(layer).rope_factors) return;
  const bool is_long = hp.n_ctx_train > hp.rope_n_ctx_orig;
  loader.leave_out(is_long ? "rope_factors_short.weight" : "rope_factors_long.weight");
  const bool required = loader.file().find_string(hp.family + ".rope.scaling.type") == "longrope";
  auto add = [&](const char* name, Presence presence) {
    return loader.add(w.rope_freqs, name, {hp.n_rot / 2}, WeightUse::kElementwise, layer, presence);
  };
  if (!add(is_long ? "rope_factors_long.weight" : "rope_factors_short.weight",
           required ? Presence::kRequired : Presence::kOptional))
    add("rope_freqs.weight", Presence::kOptional);
}

}  // namespace

void PreNormDecoder::declare(WeightLoader& loader, const HParams& hp, Weights& weights) const {
  if (hp.mixture.experts > 0 && mixture() == Presence::kNone)
    loader.file().fail("not supported: mixture-of-experts models of family " + hp.family);
  if (hp.mixture.experts == 0 && mixture() == Presence::kRequired)
    loader.file().fail(hp.family + ".expert_count is missing or 0");
  int layer = 0;
  auto add = [&](ggml_tensor*& slot, const std::string& name, std::initializer_list<int64_t> shape,
                 WeightUse use, Presence presence = Presence::kRequired) {
    return loader.add(slot, name, shape, use, layer, presence);
  };
  using enum WeightUse;

  add(weights.token_embd, "token_embd.weight", {hp.n_embd, hp.n_vocab}, kRows);
  layer = hp.n_layer - 1;
  add(weights.output_norm, "output_norm.weight", {hp.n_embd}, kElementwise);
  if (!add(weights.output, "output.weight", {hp.n_embd, hp.n_vocab}, kMatMul, Presence::kOptional))
    add(weights.output, "token_embd.weight", {hp.n_embd, hp.n_vocab}, kMatMul);

  const bool all_heads = qk_norm_kind() == QkNorm::kAllHeads;
  weights.layers.resize(static_cast<size_t>(hp.n_layer));
  for (layer = 0; layer < hp.n_layer; ++layer) {
    auto& w = weights.layers[static_cast<size_t>(layer)];
    const auto heads = hp.heads(layer);
    const int64_t q_row = int64_t{heads.n_head} * heads.d_head;
    const int64_t wq_row = hp.gated_attention ? 2 * q_row : q_row;
    const int64_t kv_row = heads.kv_row();
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    declare_rope_factors(loader, hp, layer, w);
    add(w.attn_norm, prefix + "attn_norm.weight", {hp.n_embd}, kElementwise, pre_norms());
    const bool attends = !hp.recurrent(layer);
    // Files may have what makes K and V where they are shared; nothing reads it.
    auto own = [&](Presence presence) { return hp.shares(layer) ? Presence::kNone : presence; };
    if (hp.shares(layer))
      for (const char* name : {"attn_k.", "attn_v.", "attn_k_norm."}) loader.leave_out(prefix + name);
    if (const auto stacked = prefix + "attn_qkv.weight"; !attends) {
      declare_delta_net(loader, hp, layer, w);
    } else if (loader.file().find_tensor(stacked)) {
      const WeightLoader::Stacked parts[] = {
          {&w.wq, wq_row, layer}, {&w.wk, kv_row, layer}, {&w.wv, kv_row, layer}};
      loader.add_stacked(parts, stacked, hp.n_embd);
    } else {
      add(w.wq, prefix + "attn_q.weight", {hp.n_embd, wq_row}, kMatMul);
      add(w.wk, prefix + "attn_k.weight", {hp.n_embd, kv_row}, kMatMul, own(Presence::kRequired));
      add(w.wv, prefix + "attn_v.weight", {hp.n_embd, kv_row}, kMatMul, own(wv()));
    }
    if (attends) add(w.wo, prefix + "attn_output.weight", {q_row, hp.n_embd}, kMatMul);
    add(w.bq, prefix + "attn_q.bias", {q_row}, kElementwise, qkv_bias());
    add(w.bk, prefix + "attn_k.bias", {kv_row}, kElementwise, qkv_bias());
    add(w.bv, prefix + "attn_v.bias", {kv_row}, kElementwise, qkv_bias());
    add(w.bo, prefix + "attn_output.bias", {hp.n_embd}, kElementwise, output_bias());
    add(w.sinks, prefix + "attn_sinks.weight", {heads.n_head}, kElementwise, sinks());
    const auto norms = attends ? qk_norm() : Presence::kNone;
    add(w.q_norm, prefix + "attn_q_norm.weight", {all_heads ? q_row : heads.d_head}, kElementwise, norms);
    add(w.k_norm, prefix + "attn_k_norm.weight", {all_heads ? kv_row : heads.d_head}, kElementwise,
        own(norms));
    add(w.attn_post_norm, prefix + "post_attention_norm.weight", {hp.n_embd}, kElementwise, post_norms());
    add(w.ffn_norm, prefix + ffn_norm_name(), {hp.n_embd}, kElementwise, pre_norms());
    declare_feed_forward(loader, hp, layer, w, router_bias(), expert_biases());
    add(w.ffn_post_norm, prefix + "post_ffw_norm.weight", {hp.n_embd}, kElementwise, post_norms());
    add(w.output_scale, prefix + "layer_output_scale.weight", {1}, kElementwise, output_scale());
  }
  if (hp.n_embd_layer > 0) declare_layer_embeddings(loader, hp, weights);
  const int all = loader.file().get_int(hp.family + ".block_count");
  for (; layer < all; ++layer) loader.leave_out("blk." + std::to_string(layer) + ".");
}

namespace {

/// x itself where there is no weight.
ggml_tensor* rms_norm(ggml_context* ctx, const HParams& hp, ggml_tensor* x, ggml_tensor* weight) {
  return weight != nullptr ? ggml_mul(ctx, ggml_rms_norm(ctx, x, hp.rms_eps), weight) : x;
}

ggml_tensor* scaled(ggml_context* ctx, ggml_tensor* x, float scale) {
  return scale != 1 ? ggml_scale(ctx, x, scale) : x;
}

ggml_tensor* linear(ggml_context* ctx, ggml_tensor* weight, ggml_tensor* bias, ggml_tensor* x) {
  auto* y = ggml_mul_mat(ctx, weight, x);
  return bias != nullptr ? ggml_add(ctx, y, bias) : y;
}

ggml_tensor* rope(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer, ggml_tensor* x,
                  ggml_tensor* pos, Family::Rotation rotation = Family::Rotation::kApply) {
  const auto& w = weights.layers[static_cast<size_t>(layer)];
  const auto spec = hp.attention_of(layer);
  if (!spec.rope) return x;
  const auto op = rotation == Family::Rotation::kApply ? ggml_rope_ext : ggml_rope_ext_back;
  // beta_fast and beta_slow are YaRN's published constants.
  return op(ctx, x, pos, w.rope_freqs, spec.n_rot > 0 ? spec.n_rot : hp.n_rot, hp.rope_mode,
            hp.rope_n_ctx_orig, spec.rope_base, spec.rope_freq_scale, spec.yarn ? hp.rope_ext_factor : 0.0f,
            spec.yarn ? hp.rope_attn_factor : 1.0f, 32.0f, 1.0f);
}

}  // namespace

Family::Qkv PreNormDecoder::attention_inputs(ggml_context* ctx, const HParams& hp, const Weights& weights,
                                             int layer, ggml_tensor* x, ggml_tensor* pos, Parts parts) const {
  const auto& w = weights.layers[static_cast<size_t>(layer)];
  const int64_t t = x->ne[1];
  const auto kind = qk_norm_kind();
  const auto sizes = hp.heads(layer);
  auto* h = rms_norm(ctx, hp, x, w.attn_norm);
  auto heads = [&](ggml_tensor* y, int64_t count) { return ggml_reshape_3d(ctx, y, sizes.d_head, count, t); };
  auto rotated = [&](ggml_tensor* y, ggml_tensor* norm, int64_t count) {
    if (kind == QkNorm::kAllHeads) y = rms_norm(ctx, hp, y, norm);
    if (ggml_is_contiguous(y)) y = heads(y, count);  // else they are taken apart
    if (kind == QkNorm::kHead) y = rms_norm(ctx, hp, y, norm);
    y = rope(ctx, hp, weights, layer, y, pos);
    return kind == QkNorm::kRotatedHead ? rms_norm(ctx, hp, y, norm) : y;
  };
  Qkv out;
  if (parts & kQ) {
    auto* q = linear(ctx, w.wq, w.bq, h);
    if (hp.gated_attention) {  // in each head queries, then gates
      const size_t half = static_cast<size_t>(sizes.d_head) * q->nb[0];
      auto part = [&, both = q](size_t offset) {
        return ggml_view_3d(ctx, both, sizes.d_head, sizes.n_head, t, 2 * half, both->nb[1], offset);
      };
      out.gate = ggml_cont_2d(ctx, part(half), int64_t{sizes.d_head} * sizes.n_head, t);
      out.gate = ggml_sigmoid(ctx, out.gate);
      q = part(0);
    }
    out.q = rotated(q, w.q_norm, sizes.n_head);
  }
  if (parts & kKv) {
    auto* k = linear(ctx, w.wk, w.bk, h);
    out.k = rotated(k, w.k_norm, sizes.n_head_kv);
    out.v = heads(w.wv != nullptr ? linear(ctx, w.wv, w.bv, h) : k, sizes.n_head_kv);
    if (v_norm()) out.v = ggml_rms_norm(ctx, out.v, hp.rms_eps);
  }
  return out;
}

ggml_tensor* PreNormDecoder::recur(Graph& graph, const HParams& hp, const Weights& weights, int layer,
                                   ggml_tensor* x, std::span<const StateRun> runs) const {
  const auto& w = weights.layers[static_cast<size_t>(layer)];
  return delta_net(graph, hp, w, rms_norm(graph.ctx(), hp, x, w.attn_norm), runs);
}

ggml_tensor* PreNormDecoder::rotate(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                                    ggml_tensor* x, ggml_tensor* pos, Rotation rotation) const {
  return rope(ctx, hp, weights, layer, x, pos, rotation);
}

ggml_tensor* PreNormDecoder::finish_layer(ggml_context* ctx, const HParams& hp, const Weights& weights,
                                          int layer, ggml_tensor* x, ggml_tensor* attention,
                                          const LayerTokens& tokens) const {
  const auto& w = weights.layers[static_cast<size_t>(layer)];
  auto added = [&](ggml_tensor* y, ggml_tensor* norm, ggml_tensor* to) {
    return ggml_add(ctx, scaled(ctx, rms_norm(ctx, hp, y, norm), hp.residual_scale), to);
  };
  auto* mid = added(linear(ctx, w.wo, w.bo, attention), w.attn_post_norm, x);
  auto* fed = w.expert_norm != nullptr ? feed_forward_beside(ctx, hp, w, mid)
                                       : feed_forward(ctx, hp, w, rms_norm(ctx, hp, mid, w.ffn_norm));
  auto* out = added(fed, w.ffn_post_norm, mid);
  if (tokens.rows != nullptr) out = add_layer_embedding(ctx, hp, w, out, tokens);
  return w.output_scale != nullptr ? ggml_mul(ctx, out, w.output_scale) : out;
}

ggml_tensor* PreNormDecoder::embed(ggml_context* ctx, const HParams& hp, const Weights& weights,
                                   ggml_tensor* tokens) const {
  return scaled(ctx, ggml_get_rows(ctx, weights.token_embd, tokens), hp.embedding_scale);
}

ggml_tensor* PreNormDecoder::embed_in_layer(ggml_context* ctx, const HParams& hp, const Weights& weights,
                                            int layer, ggml_tensor* tokens) const {
  return layer_embedding_rows(ctx, hp, weights, layer, tokens);
}

ggml_tensor* PreNormDecoder::logits(ggml_context* ctx, const HParams& hp, const Weights& weights,
                                    ggml_tensor* x) const {
  auto* y = ggml_mul_mat(ctx, weights.output, rms_norm(ctx, hp, x, weights.output_norm));
  y = scaled(ctx, y, hp.logit_scale);
  if (hp.logit_softcap == 0) return y;
  return ggml_scale(ctx, ggml_tanh(ctx, ggml_scale(ctx, y, 1.0f / hp.logit_softcap)), hp.logit_softcap);
}

}  // namespace windowkv
