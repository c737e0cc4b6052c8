#include "model/families/delta_net.h"

#include <cmath>

namespace windowkv {

void read_delta_net(const GgufFile& file, HParams& hp) {
  auto key = [&](const char* name) { return hp.family + "." + name; };
  auto read = [&](const char* name, int least, int most) {
    const int value = file.get_int(key(name));
    if (value < least || value > most)
      file.fail(key(name) + " is " + std::to_string(value) + "; it must be " + std::to_string(least) +
                " to " + std::to_string(most));
    return value;
  };
  auto& net = hp.delta_net;
  net.kernel = read("ssm.conv_kernel", 2, 64);
  net.d_head = read("ssm.state_size", 1, 512);
  net.key_heads = read("ssm.group_count", 1, 4096);
  net.heads = read("ssm.time_step_rank", 1, 4096);
  if (net.heads % net.key_heads != 0)
    file.fail(std::to_string(net.heads) + " heads of " + key("ssm.time_step_rank") + " cannot share " +
              std::to_string(net.key_heads) + " of " + key("ssm.group_count"));
  if (const int inner = file.get_int(key("ssm.inner_size")); inner != net.heads * net.d_head)
    file.fail(key("ssm.inner_size") + " is " + std::to_string(inner) + ", expected " +
              std::to_string(net.heads * net.d_head) + " for " + std::to_string(net.heads) + " heads of " +
              std::to_string(net.d_head));

  const auto listed = file.find_ints(key("attention.recurrent_layers"));
  if (const int all = file.get_int(key("block_count")); listed && std::ssize(*listed) != all)
    file.fail(key("attention.recurrent_layers") + " has " + std::to_string(listed->size()) + " numbers for " +
              std::to_string(all) + " layers");
  const int period = file.find_int(key("full_attention_interval")).value_or(4);
  if (period < 1) file.fail(key("full_attention_interval") + " is " + std::to_string(period));
  for (int layer = 0; layer < hp.n_layer; ++layer)
    hp.attention[static_cast<size_t>(layer)].recurrent =
        listed ? (*listed)[static_cast<size_t>(layer)] != 0 : (layer + 1) % period != 0;
  if (hp.row_layer(hp.n_layer) == 0) file.fail("not supported: models in which no layer attends");
}

void declare_delta_net(WeightLoader& loader, const HParams& hp, int layer, LayerWeights& w) {
  using enum WeightUse;
  const auto& net = hp.delta_net;
  const int64_t inner = int64_t{net.d_head} * net.heads;
  auto add = [&](ggml_tensor*& slot, const char* name, std::initializer_list<int64_t> shape, WeightUse use) {
    loader.add(slot, "blk." + std::to_string(layer) + "." + name, shape, use, layer);
  };
  add(w.delta_qkv, "attn_qkv.weight", {hp.n_embd, net.channels()}, kMatMul);
  add(w.delta_gate, "attn_gate.weight", {hp.n_embd, inner}, kMatMul);
  add(w.delta_beta, "ssm_beta.weight", {hp.n_embd, net.heads}, kMatMul);
  add(w.delta_decay, "ssm_alpha.weight", {hp.n_embd, net.heads}, kMatMul);
  add(w.delta_decay_bias, "ssm_dt.bias", {net.heads}, kElementwise);
  add(w.delta_decay_scale, "ssm_a", {net.heads}, kElementwise);
  add(w.delta_conv, "ssm_conv1d.weight", {net.kernel, net.channels()}, kConvolution);
  add(w.delta_norm, "ssm_norm.weight", {net.d_head}, kElementwise);
  add(w.wo, "ssm_out.weight", {inner, hp.n_embd}, kMatMul);
}

namespace {

/// A run's tokens through the convolution: mixed [channels, t] → [channels, count].
ggml_tensor* convolved(Graph& graph, const DeltaNet& net, ggml_tensor* kernel, ggml_tensor* mixed,
                       const Family::StateRun& run) {
  auto* ctx = graph.ctx();
  mixed = ggml_view_2d(ctx, mixed, mixed->ne[0], run.count, mixed->nb[1],
                       static_cast<size_t>(run.first) * mixed->nb[1]);
  auto* inputs = ggml_concat(ctx, run.inputs, ggml_transpose(ctx, mixed), 0);
  auto* last = ggml_view_2d(ctx, inputs, net.kernel - 1, net.channels(), inputs->nb[1],
                            static_cast<size_t>(run.count) * inputs->nb[0]);
  graph.add(ggml_cpy(ctx, last, run.inputs_left));
  return ggml_silu(ctx, ggml_ssm_conv(ctx, inputs, kernel));
}

/// Of a [heads, t] tensor a run's columns as [1, heads, count].
ggml_tensor* gates_of(ggml_context* ctx, ggml_tensor* gates, const Family::StateRun& run) {
  const size_t column = gates->nb[1];
  return ggml_view_4d(ctx, gates, 1, gates->ne[0], run.count, 1, gates->nb[0], column,
                      column * static_cast<size_t>(run.count), static_cast<size_t>(run.first) * column);
}

}  // namespace

ggml_tensor* delta_net(Graph& graph, const HParams& hp, const LayerWeights& w, ggml_tensor* h,
                       std::span<const Family::StateRun> runs) {
  auto* ctx = graph.ctx();
  const auto& net = hp.delta_net;
  const int64_t d = net.d_head;
  const int64_t inner = d * net.heads;
  const int64_t t = h->ne[1];
  auto* mixed = ggml_mul_mat(ctx, w.delta_qkv, h);
  // In the shapes that libllama has, as ggml rounds rows of other lengths differently.
  auto* beta = ggml_sigmoid(ctx, ggml_reshape_3d(ctx, ggml_mul_mat(ctx, w.delta_beta, h), 1, net.heads, t));
  beta = ggml_reshape_2d(ctx, beta, net.heads, t);
  auto* decay = ggml_add(ctx, ggml_mul_mat(ctx, w.delta_decay, h), w.delta_decay_bias);
  decay = ggml_mul(ctx, ggml_softplus(ctx, decay), w.delta_decay_scale);

  ggml_tensor* out = nullptr;
  for (const auto& run : runs) {
    auto* qkv = convolved(graph, net, w.delta_conv, mixed, run);
    auto part = [&](int64_t first, int64_t heads) {
      return ggml_view_4d(ctx, qkv, d, heads, run.count, 1, ggml_row_size(qkv->type, d), qkv->nb[1],
                          qkv->nb[1] * static_cast<size_t>(run.count), ggml_row_size(qkv->type, first * d));
    };
    // x / √(Σx² + ε), of which ggml_l2_norm would make the larger of the two.
    auto unit = [&](ggml_tensor* x) {
      const auto width = static_cast<float>(d);
      return ggml_scale(ctx, ggml_rms_norm(ctx, x, hp.rms_eps / width), 1.0f / std::sqrt(width));
    };
    auto* q = unit(part(0, net.key_heads));
    auto* k = unit(part(net.key_heads, net.key_heads));
    auto* v = part(int64_t{2} * net.key_heads, net.heads);
    auto* matrices = ggml_reshape_4d(ctx, run.matrices, d, d, net.heads, 1);
    // What is read, then the matrices as they are afterwards.
    auto* both = ggml_gated_delta_net(ctx, q, k, v, gates_of(ctx, decay, run), gates_of(ctx, beta, run),
                                      matrices, /*K=*/1);
    graph.add(ggml_cpy(ctx,
                       ggml_view_2d(ctx, both, d * d, net.heads, ggml_row_size(both->type, d * d),
                                    ggml_row_size(both->type, inner * run.count)),
                       run.matrices_left));
    auto* read = ggml_view_2d(ctx, both, inner, run.count, ggml_row_size(both->type, inner), 0);
    out = out != nullptr ? ggml_concat(ctx, out, read, 1) : read;
  }
  out =
      ggml_mul(ctx, ggml_rms_norm(ctx, ggml_reshape_3d(ctx, out, d, net.heads, t), hp.rms_eps), w.delta_norm);
  auto* gate = ggml_reshape_3d(ctx, ggml_mul_mat(ctx, w.delta_gate, h), d, net.heads, t);
  out = ggml_mul(ctx, out, ggml_silu(ctx, gate));
  return ggml_reshape_2d(ctx, out, inner, t);
}

}  // namespace windowkv
