#include "model/families/feed_forward.h"

#include <algorithm>
#include <cmath>

namespace windowkv {

Mixture read_mixture(const GgufFile& file, const HParams& hp) {
  auto key = [&](const char* name) { return hp.family + "." + name; };
  auto in_range = [&](const char* name, int value, int least, int most) {
    if (value < least || value > most)
      file.fail(key(name) + " is " + std::to_string(value) + "; it must be " + std::to_string(least) +
                " to " + std::to_string(most));
    return value;
  };
  Mixture m;
  m.experts = in_range("expert_count", file.find_int(key("expert_count")).value_or(0), 0, 4096);
  if (m.experts == 0) return m;
  // Each takes two nodes of a graph, whose size is bounded.
  constexpr int kMostUsed = 16;
  m.used = in_range("expert_used_count", file.get_int(key("expert_used_count")), 1,
                    std::min(m.experts, kMostUsed));
  m.n_ff = file.find_int(key("expert_feed_forward_length")).value_or(hp.n_ff);
  in_range("expert_feed_forward_length", m.n_ff, 1, 1 << 22);
  m.n_ff_shared = in_range("expert_shared_feed_forward_length",
                           file.find_int(key("expert_shared_feed_forward_length")).value_or(0), 0, 1 << 22);
  m.dense_layers = in_range("leading_dense_block_count",
                            file.find_int(key("leading_dense_block_count")).value_or(0), 0, hp.n_layer);
  if (file.find_int(key("expert_group_count")).value_or(0) > 1) file.fail("not supported: experts in groups");
  return m;
}

void declare_feed_forward(WeightLoader& loader, const HParams& hp, int layer, LayerWeights& w,
                          Presence router_bias, Presence expert_biases) {
  using enum WeightUse;
  const auto& m = hp.mixture;
  const std::string prefix = "blk." + std::to_string(layer) + ".";
  auto add = [&](ggml_tensor*& slot, const char* name, std::initializer_list<int64_t> shape, WeightUse use,
                 Presence presence = Presence::kRequired) {
    return loader.add(slot, prefix + name, shape, use, layer, presence);
  };
  const int64_t width = hp.ff_width(layer);
  if (m.experts > 0 && layer >= m.dense_layers) {
    add(w.router, "ffn_gate_inp.weight", {hp.n_embd, m.experts}, kMatMul);
    add(w.router_bias, "exp_probs_b.bias", {m.experts}, kElementwise, router_bias);
    if (!add(w.gate_up, "ffn_gate_up_exps.weight", {hp.n_embd, int64_t{2} * m.n_ff, m.experts}, kExperts,
             m.beside_dense ? Presence::kOptional : Presence::kNone)) {
      add(w.gate, "ffn_gate_exps.weight", {hp.n_embd, m.n_ff, m.experts}, kExperts);
      add(w.up, "ffn_up_exps.weight", {hp.n_embd, m.n_ff, m.experts}, kExperts);
    }
    add(w.down, "ffn_down_exps.weight", {m.n_ff, hp.n_embd, m.experts}, kExperts);
    add(w.rating_bias, "ffn_gate_inp.bias", {m.experts}, kElementwise, expert_biases);
    add(w.gate_bias, "ffn_gate_exps.bias", {m.n_ff, m.experts}, kExpertBias, expert_biases);
    add(w.up_bias, "ffn_up_exps.bias", {m.n_ff, m.experts}, kExpertBias, expert_biases);
    add(w.down_bias, "ffn_down_exps.bias", {hp.n_embd, m.experts}, kExpertBias, expert_biases);
    if (m.beside_dense) {
      add(w.router_scale, "ffn_gate_inp.scale", {hp.n_embd}, kElementwise);
      add(w.down_scale, "ffn_down_exps.scale", {m.experts}, kElementwise, Presence::kOptional);
      add(w.expert_norm, "pre_ffw_norm_2.weight", {hp.n_embd}, kElementwise);
      add(w.expert_post_norm, "post_ffw_norm_2.weight", {hp.n_embd}, kElementwise);
      add(w.shared_post_norm, "post_ffw_norm_1.weight", {hp.n_embd}, kElementwise);
      add(w.shared_gate, "ffn_gate.weight", {hp.n_embd, width}, kMatMul);
      add(w.shared_up, "ffn_up.weight", {hp.n_embd, width}, kMatMul);
      add(w.shared_down, "ffn_down.weight", {width, hp.n_embd}, kMatMul);
      return;
    }
    if (m.n_ff_shared == 0) return;
    add(w.shared_gate, "ffn_gate_shexp.weight", {hp.n_embd, m.n_ff_shared}, kMatMul);
    add(w.shared_up, "ffn_up_shexp.weight", {hp.n_embd, m.n_ff_shared}, kMatMul);
    add(w.shared_down, "ffn_down_shexp.weight", {m.n_ff_shared, hp.n_embd}, kMatMul);
    add(w.shared_router, "ffn_gate_inp_shexp.weight", {hp.n_embd}, kMatMul,
        m.shared_gated ? Presence::kRequired : Presence::kNone);
    return;
  }
  // Phi-3's have both in one.
  const auto up = loader.file().find_tensor(prefix + "ffn_up.weight");
  if (up && up->ne[1] == 2 * width && !loader.file().find_tensor(prefix + "ffn_gate.weight")) {
    const WeightLoader::Stacked parts[] = {{&w.gate, width, layer}, {&w.up, width, layer}};
    loader.add_stacked(parts, prefix + "ffn_up.weight", hp.n_embd);
  } else {
    add(w.gate, "ffn_gate.weight", {hp.n_embd, width}, kMatMul);
    add(w.up, "ffn_up.weight", {hp.n_embd, width}, kMatMul);
  }
  add(w.down, "ffn_down.weight", {width, hp.n_embd}, kMatMul);
}

namespace {

ggml_tensor* gated(ggml_context* ctx, const HParams& hp, ggml_tensor* gate, ggml_tensor* up) {
  switch (hp.activation) {
    case HParams::Activation::kGelu:
      return ggml_geglu_split(ctx, gate, up);
    case HParams::Activation::kClampedSilu:
      return ggml_swiglu_oai(ctx, gate, up, 1.702f, 7.0f);  // gpt-oss's published constants
    case HParams::Activation::kSilu:
      break;
  }
  return ggml_swiglu_split(ctx, gate, up);
}

ggml_tensor* dense(ggml_context* ctx, const HParams& hp, ggml_tensor* gate, ggml_tensor* up,
                   ggml_tensor* down, ggml_tensor* h) {
  return ggml_mul_mat(ctx, down, gated(ctx, hp, ggml_mul_mat(ctx, gate, h), ggml_mul_mat(ctx, up, h)));
}

struct Routes {
  ggml_tensor* experts;  ///< [used, t] I32
  ggml_tensor* weights;  ///< [1, used, t]
};

/// `h`: what the router reads, [n_embd, t].
Routes route(ggml_context* ctx, const Mixture& m, const LayerWeights& w, ggml_tensor* h) {
  using enum Mixture::Rating;
  const int64_t t = h->ne[1];
  auto* rated = ggml_mul_mat(ctx, w.router, h);  // [experts, t]
  if (w.rating_bias != nullptr) rated = ggml_add(ctx, rated, w.rating_bias);
  if (m.rating == kSigmoid) rated = ggml_sigmoid(ctx, rated);
  if (m.rating == kSoftmax) rated = ggml_soft_max(ctx, rated);
  auto* chosen_by = w.router_bias != nullptr ? ggml_add(ctx, rated, w.router_bias) : rated;
  auto* experts = ggml_argsort_top_k(ctx, chosen_by, m.used);
  auto* weights = ggml_get_rows(ctx, ggml_reshape_3d(ctx, rated, 1, m.experts, t), experts);
  if (m.rating == kSoftmaxOfUsed)
    weights =
        ggml_reshape_3d(ctx, ggml_soft_max(ctx, ggml_reshape_2d(ctx, weights, m.used, t)), 1, m.used, t);
  if (m.normalized) {
    weights = ggml_reshape_2d(ctx, weights, m.used, t);
    // The smallest normal number of F16, as libllama has it.
    auto* sum = ggml_clamp(ctx, ggml_sum_rows(ctx, weights), 6.103515625e-5f, INFINITY);
    weights = ggml_reshape_3d(ctx, ggml_div(ctx, weights, sum), 1, m.used, t);
  }
  if (m.scale != 1) weights = ggml_scale(ctx, weights, m.scale);
  return {experts, weights};
}

/// What the experts give that the router chooses by `rated`: hidden states h [n_embd, t] → [n_embd, t].
ggml_tensor* experts_of(ggml_context* ctx, const HParams& hp, const LayerWeights& w, ggml_tensor* h,
                        ggml_tensor* rated) {
  const int64_t t = h->ne[1];
  const auto [experts, weights] = route(ctx, hp.mixture, w, rated);
  auto* each = ggml_reshape_3d(ctx, h, hp.n_embd, 1, t);
  auto by_experts = [ctx, ids = experts](ggml_tensor* weight, ggml_tensor* bias, ggml_tensor* x) {
    auto* y = ggml_mul_mat_id(ctx, weight, x, ids);
    return bias != nullptr ? ggml_add_id(ctx, y, bias, ids) : y;
  };
  ggml_tensor *gate, *up;
  if (w.gate_up != nullptr) {
    auto* both = by_experts(w.gate_up, nullptr, each);
    auto half = [&](size_t which) {
      return ggml_view_3d(ctx, both, hp.mixture.n_ff, both->ne[1], t, both->nb[1], both->nb[2],
                          which * static_cast<size_t>(hp.mixture.n_ff) * both->nb[0]);
    };
    gate = half(0);
    up = half(1);
  } else {
    gate = by_experts(w.gate, w.gate_bias, each);
    up = by_experts(w.up, w.up_bias, each);
  }
  auto* results = by_experts(w.down, w.down_bias, gated(ctx, hp, gate, up));  // [n_embd, used, t]
  if (w.down_scale != nullptr) {
    auto* ids = ggml_reshape_1d(ctx, ggml_cont(ctx, experts), ggml_nelements(experts));
    auto* scales = ggml_get_rows(ctx, ggml_reshape_2d(ctx, w.down_scale, 1, hp.mixture.experts), ids);
    results = ggml_mul(ctx, results, ggml_reshape_3d(ctx, scales, 1, hp.mixture.used, t));
  }
  results = ggml_mul(ctx, results, weights);
  ggml_tensor* sum = nullptr;
  for (int64_t i = 0; i < results->ne[1]; ++i) {
    auto* one =
        ggml_view_2d(ctx, results, hp.n_embd, t, results->nb[2], static_cast<size_t>(i) * results->nb[1]);
    sum = sum != nullptr ? ggml_add(ctx, sum, one) : one;
  }
  return sum;
}

}  // namespace

ggml_tensor* feed_forward(ggml_context* ctx, const HParams& hp, const LayerWeights& w, ggml_tensor* h) {
  if (w.router == nullptr) return dense(ctx, hp, w.gate, w.up, w.down, h);
  auto* sum = experts_of(ctx, hp, w, h, h);
  if (w.shared_gate == nullptr) return sum;
  auto* shared = dense(ctx, hp, w.shared_gate, w.shared_up, w.shared_down, h);
  if (w.shared_router != nullptr)
    shared = ggml_mul(ctx, shared, ggml_sigmoid(ctx, ggml_mul_mat(ctx, w.shared_router, h)));
  return ggml_add(ctx, sum, shared);
}

ggml_tensor* feed_forward_beside(ggml_context* ctx, const HParams& hp, const LayerWeights& w,
                                 ggml_tensor* mid) {
  auto plain = [&](ggml_tensor* x) { return ggml_rms_norm(ctx, x, hp.rms_eps); };
  auto norm = [&](ggml_tensor* x, ggml_tensor* weight) { return ggml_mul(ctx, plain(x), weight); };
  auto* shared = dense(ctx, hp, w.shared_gate, w.shared_up, w.shared_down, norm(mid, w.ffn_norm));
  auto* rated = ggml_scale(ctx, plain(mid), 1.0f / std::sqrt(static_cast<float>(hp.n_embd)));
  auto* experts = experts_of(ctx, hp, w, norm(mid, w.expert_norm), ggml_mul(ctx, rated, w.router_scale));
  return ggml_add(ctx, norm(shared, w.shared_post_norm), norm(experts, w.expert_post_norm));
}

}  // namespace windowkv
