#include "random_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ggml-cpp.h>
#include <gguf.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numbers>
#include <thread>

#include "random_family.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

uint64_t mix(uint64_t x) {  // splitmix64's finalizer
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Value `index` of a stream of near-normal numbers, mean 0 and variance 1: the sum of four uniform ones.
/// Exact integer arithmetic up to the last product, and any part of a stream can be had without the rest.
float normal(uint64_t stream, uint64_t index) {
  const uint64_t bits = mix(stream + (index + 1) * 0x9e3779b97f4a7c15u);
  const auto sum = static_cast<int32_t>((bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) +
                                        (bits >> 48));
  // A 16-bit uniform number has the variance (2^32 − 1)/12.
  constexpr float kScale = 2.6429197e-5f;  // 1 / √(4·(2^32 − 1)/12)
  return static_cast<float>(sum - 2 * 65535) * kScale;
}

struct Entry {
  ggml_tensor* tensor;
  float mean;
  float deviation;
  uint64_t stream;
  std::vector<float> values;  // where not random
};

class Writer {
 public:
  Writer(const RandomModel& model, int threads)
      : m_(model),
        family_(random_family(model.family)),
        threads_(threads > 0 ? threads
                             : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))) {
    check();
    const size_t tensors = 16 + 40 * static_cast<size_t>(m_.n_layer + m_.extra_layers);
    ctx_.reset(ggml_init({ggml_tensor_overhead() * tensors, nullptr, /*no_alloc=*/true}));
    gguf_.reset(gguf_init_empty());
    metadata();
    declare();
  }

  void write(FILE* file) const {
    std::vector<uint8_t> meta(gguf_get_meta_size(gguf_.get()));
    gguf_get_meta_data(gguf_.get(), meta.data());
    put(file, meta.data(), meta.size());
    const size_t alignment = gguf_get_alignment(gguf_.get());
    for (const auto& entry : entries_) {
      write_tensor(file, entry);
      const size_t bytes = ggml_nbytes(entry.tensor);
      const std::vector<uint8_t> padding(GGML_PAD(bytes, alignment) - bytes);
      put(file, padding.data(), padding.size());
    }
  }

 private:
  static void put(FILE* file, const void* data, size_t size) {
    if (size > 0 && std::fwrite(data, 1, size, file) != size) throw Error(std::strerror(errno));
  }

  void check() const {
    auto in_range = [](const char* what, int64_t value, int64_t low, int64_t high) {
      if (value < low || value > high)
        throw Error(fmt::format("{} is {}; it must be {} to {}", what, value, low, high));
    };
    in_range("the number of layers", m_.n_layer, 1, 1024);
    in_range("the width", m_.n_embd, 1, 1 << 20);
    in_range("the number of query heads", m_.n_head, 1, 4096);
    in_range("the number of KV heads", m_.n_head_kv, 1, m_.n_head);
    in_range("the head size", m_.d_head, 2, 1024);
    in_range("the feed-forward width", m_.n_ff, 1, 1 << 22);
    in_range("the feed-forward width above", m_.n_ff_above, 0, 1 << 22);
    in_range("the period of layers with a window", m_.window_period, 1, 1024);
    in_range("the number of layers that share K and V", m_.shared_layers, 0, m_.n_layer - 1);
    in_range("the width of embeddings for each layer", m_.n_embd_layer, 0, 1 << 16);
    if (has_experts()) {
      in_range("the number of experts", m_.n_expert, 1, 4096);
      in_range("the number of experts in use", m_.n_expert_used, 1, m_.n_expert);
      in_range("the width of an expert", m_.n_ff_expert, 1, 1 << 22);
      in_range("the width of the shared expert", m_.n_ff_shared, 0, 1 << 22);
      in_range("the number of dense layers", m_.dense_layers, 0, m_.n_layer);
    } else if (m_.n_expert != 0) {
      throw Error(fmt::format("the family {} has no experts", m_.family));
    }
    if (family_.delta_net) {
      in_range("the interval of layers that attend", m_.attention_interval, 1, 1024);
      in_range("the number of a delta net's key heads", m_.delta_key_heads, 1, 4096);
      in_range("the number of a delta net's heads", m_.delta_heads, 1, 4096);
      in_range("the size of a delta net's heads", m_.delta_d_head, 1, 512);
      in_range("the width of a delta net's convolution", m_.delta_kernel, 2, 64);
      if (m_.delta_heads % m_.delta_key_heads != 0)
        throw Error(fmt::format("{} heads of a delta net cannot share {} key heads", m_.delta_heads,
                                m_.delta_key_heads));
      in_range("the width of the shared expert", m_.n_ff_shared, has_experts() ? 1 : 0, 1 << 22);
    }
    in_range("the vocabulary", m_.n_vocab, 1, 16'000'000);
    in_range("the context", m_.n_ctx, 1, 1 << 30);
    if (m_.n_head % m_.n_head_kv != 0)
      throw Error(fmt::format("{} query heads cannot share {} KV heads", m_.n_head, m_.n_head_kv));
    if (n_rot() % 2 != 0 || n_rot() > m_.d_head)
      throw Error(fmt::format("RoPE cannot rotate {} of a head's {} dimensions", n_rot(), m_.d_head));
    if (family_.layers_differ && m_.window < 1)
      throw Error(fmt::format("the family {} needs a sliding window", m_.family));
    if (family_.layers_differ && m_.n_head % n_head_kv_of(0) != 0)
      throw Error(fmt::format("{} query heads cannot share {} KV heads", m_.n_head, n_head_kv_of(0)));
    if (!(m_.rope_factor > 0)) throw Error("the RoPE scaling factor must be above 0");
    const int64_t block = ggml_blck_size(m_.type);
    for (auto [what, size] :
         {std::pair{"the width", m_.n_embd},
          {"the feed-forward width", m_.n_ff},
          {"the feed-forward width above", m_.n_ff_above},
          {"the width of embeddings for each layer", m_.n_embd_layer},
          {"the width of an expert", has_experts() ? m_.n_ff_expert : 0},
          {"the width of the shared expert", m_.n_ff_shared},
          {"query heads times head size", m_.n_head * m_.d_head},
          {"a delta net's heads times their size", family_.delta_net ? m_.delta_heads * m_.delta_d_head : 0}})
      if (size % block != 0)
        throw Error(
            fmt::format("{} is {}; {} needs a multiple of {}", what, size, ggml_type_name(m_.type), block));
  }

  bool has_experts() const {
    using enum RandomFamily::Experts;
    return family_.experts == kAlways || (family_.experts == kSome && m_.n_expert > 0);
  }

  int n_rot() const { return m_.n_rot > 0 ? m_.n_rot : m_.d_head; }

  void metadata() {
    auto* g = gguf_.get();
    auto key = [&](const char* name) { return m_.family + "." + name; };
    auto number = [&](const char* name, int value) {
      gguf_set_val_u32(g, key(name).c_str(), static_cast<uint32_t>(value));
    };
    auto real = [&](const char* name, float value) { gguf_set_val_f32(g, key(name).c_str(), value); };
    gguf_set_val_str(g, "general.architecture", m_.family.c_str());
    gguf_set_val_str(g, "general.name", fmt::format("random {}", m_.seed).c_str());
    number("block_count", m_.n_layer + m_.extra_layers);
    number("context_length", m_.n_ctx);
    number("embedding_length", m_.n_embd);
    if (!family_.layers_differ || m_.n_ff_above == 0) number("feed_forward_length", m_.n_ff);
    number("attention.head_count", m_.n_head);
    if (family_.layers_differ)
      differing_layers();
    else
      number("attention.head_count_kv", m_.n_head_kv);
    number("attention.key_length", m_.d_head);
    number("attention.value_length", m_.d_head);
    number("rope.dimension_count", n_rot());
    number("vocab_size", m_.n_vocab);
    real("attention.layer_norm_rms_epsilon", m_.rms_eps);
    real("rope.freq_base", m_.rope_base);
    if (m_.rope_scaling != RopeScaling::kNone) {
      const bool is_long = m_.rope_scaling == RopeScaling::kLong;
      gguf_set_val_str(g, key("rope.scaling.type").c_str(),
                       is_long                                   ? "longrope"
                       : m_.rope_scaling == RopeScaling::kLinear ? "linear"
                                                                 : "yarn");
      if (!is_long) real("rope.scaling.factor", m_.rope_factor);
    }
    if (m_.window > 0) number("attention.sliding_window", m_.window);
    if (m_.rope_attn_factor != 1) real("rope.scaling.attn_factor", m_.rope_attn_factor);
    if (m_.rope_n_ctx_orig > 0) number("rope.scaling.original_context_length", m_.rope_n_ctx_orig);
    if (has_experts()) {
      number("expert_count", m_.n_expert);
      number("expert_used_count", m_.n_expert_used);
      number("expert_feed_forward_length", m_.n_ff_expert);
      if (family_.shared_count)
        number("expert_shared_count", m_.n_ff_shared / m_.n_ff_expert);
      else if (m_.n_ff_shared > 0)
        number("expert_shared_feed_forward_length", m_.n_ff_shared);
      if (m_.dense_layers > 0) number("leading_dense_block_count", m_.dense_layers);
      if (family_.router_bias) gguf_set_val_bool(g, key("expert_weights_norm").c_str(), true);
      if (m_.expert_scale != 1) real("expert_weights_scale", m_.expert_scale);
      if (family_.gating > 0) number("expert_gating_func", family_.gating);
    }
    if (m_.extra_layers > 0) number("nextn_predict_layers", m_.extra_layers);
    if (family_.scales) {
      real("embedding_scale", 1.5f);
      real("residual_scale", 0.7f);
      real("attention.scale", 0.3f);
      real("logit_scale", 2.5f);
    }
    if (family_.delta_net) {
      number("ssm.conv_kernel", m_.delta_kernel);
      number("ssm.state_size", m_.delta_d_head);
      number("ssm.group_count", m_.delta_key_heads);
      number("ssm.time_step_rank", m_.delta_heads);
      number("ssm.inner_size", m_.delta_heads * m_.delta_d_head);
      number("full_attention_interval", m_.attention_interval);
      const int pairs = n_rot() / 2;
      const int32_t sections[] = {(pairs + 2) / 3, (pairs + 1) / 3, pairs / 3, 0};
      gguf_set_arr_data(g, key("rope.dimension_sections").c_str(), GGUF_TYPE_INT32, sections, 4);
    }
    if (m_.attention_softcap != 0) real("attn_logit_softcapping", m_.attention_softcap);
    if (m_.logit_softcap != 0) real("final_logit_softcapping", m_.logit_softcap);
    if (m_.query_growth != 0) {
      real("attention.temperature_scale", m_.query_growth);
      real("rope.scaling.yarn_log_multiplier", 1.0f);
    }
    gguf_set_val_str(g, "tokenizer.ggml.model", "no_vocab");
  }

  bool has_window(int layer) const { return family_.layers_differ && (layer + 1) % m_.window_period != 0; }
  int d_head_of(int layer) const {
    return has_window(layer) && m_.d_head_window > 0 ? m_.d_head_window : m_.d_head;
  }
  int n_ff_of(int layer) const {
    const int first = m_.shared_layers > 0 ? m_.n_layer - m_.shared_layers : m_.n_layer / 2;
    return m_.n_ff_above > 0 && layer >= first ? m_.n_ff_above : m_.n_ff;
  }
  int n_head_kv_of(int layer) const {
    return has_window(layer) && m_.n_head_kv_window > 0 ? m_.n_head_kv_window : m_.n_head_kv;
  }

  void differing_layers() {
    std::vector<int32_t> kv_heads, widths;
    std::vector<int8_t> windows;
    for (int layer = 0; layer < m_.n_layer; ++layer) {
      kv_heads.push_back(n_head_kv_of(layer));
      widths.push_back(n_ff_of(layer));
      windows.push_back(has_window(layer) ? 1 : 0);
    }
    auto* g = gguf_.get();
    const auto count = static_cast<size_t>(m_.n_layer);
    const std::string prefix = m_.family + ".";
    gguf_set_arr_data(g, (prefix + "attention.head_count_kv").c_str(), GGUF_TYPE_INT32, kv_heads.data(),
                      count);
    gguf_set_arr_data(g, (prefix + "attention.sliding_window_pattern").c_str(), GGUF_TYPE_BOOL,
                      windows.data(), count);
    if (m_.n_ff_above > 0)
      gguf_set_arr_data(g, (prefix + "feed_forward_length").c_str(), GGUF_TYPE_INT32, widths.data(), count);
    auto number = [&](const char* name, int value) {
      gguf_set_val_u32(g, (prefix + name).c_str(), static_cast<uint32_t>(value));
    };
    number("attention.key_length_swa", d_head_of(0));
    number("attention.value_length_swa", d_head_of(0));
    number("rope.dimension_count_swa", m_.n_rot_window > 0 ? m_.n_rot_window : d_head_of(0));
    number("attention.shared_kv_layers", m_.shared_layers);
    number("embedding_length_per_layer_input", m_.n_embd_layer);
    gguf_set_val_f32(g, (prefix + "rope.freq_base_swa").c_str(), 2e4f);
  }

  Entry& add(const std::string& name, ggml_type type, float mean, float deviation, int64_t ne0,
             int64_t ne1 = 1, int64_t ne2 = 1) {
    auto* tensor = ggml_new_tensor_3d(ctx_.get(), type, ne0, ne1, ne2);
    ggml_set_name(tensor, name.c_str());
    gguf_add_tensor(gguf_.get(), tensor);
    entries_.push_back({tensor, mean, deviation, mix(m_.seed * 0x9e3779b97f4a7c15u + entries_.size()), {}});
    return entries_.back();
  }

  // Deviations keep activations near 1 at any width; Q and K are a little larger, so that attention is not
  // uniform, and the logits, so that the most probable token stands out.
  void matrix(const std::string& name, float gain, int64_t in, int64_t out, int64_t experts = 1) {
    add(name, m_.type, 0.0f, gain / std::sqrt(static_cast<float>(in)), in, out, experts);
  }
  void norm(const std::string& name, float mean, int64_t size) {
    add(name, GGML_TYPE_F32, mean, 0.15f, size);
  }
  void bias(const std::string& name, int64_t size) { add(name, GGML_TYPE_F32, 0.0f, 0.3f, size); }

  void declare() {
    matrix("token_embd.weight", 3.0f, m_.n_embd, m_.n_vocab);
    norm("output_norm.weight", 1.0f, m_.n_embd);
    if (!m_.tied) matrix("output.weight", 3.0f, m_.n_embd, m_.n_vocab);
    if (m_.n_embd_layer > 0) {
      const int64_t all = int64_t{m_.n_embd_layer} * m_.n_layer;
      // Larger by the root of the width once looked up.
      matrix("per_layer_token_embd.weight", std::sqrt(static_cast<float>(m_.n_layer)), all, m_.n_vocab);
      matrix("per_layer_model_proj.weight", 1.0f, m_.n_embd, all);
      norm("per_layer_proj_norm.weight", 1.0f, m_.n_embd_layer);
    }
    if (m_.llama3_rope_freqs || family_.layers_differ)
      add("rope_freqs.weight", GGML_TYPE_F32, 0, 0, m_.d_head / 2).values = llama3_factors();
    if (m_.rope_scaling == RopeScaling::kLong)
      for (const bool is_long : {true, false}) {
        auto& factors = add(is_long ? "rope_factors_long.weight" : "rope_factors_short.weight", GGML_TYPE_F32,
                            0, 0, n_rot() / 2);
        for (int k = 0; k < n_rot() / 2; ++k)
          factors.values.push_back(1.0f + static_cast<float>(k) * (is_long ? 1.0f : 0.05f));
      }
    for (int i = 0; i < m_.n_layer + m_.extra_layers; ++i) {
      const std::string prefix = fmt::format("blk.{}.", i);
      const bool before = family_.norms != RandomFamily::Norms::kAfter;
      const bool behind = family_.norms != RandomFamily::Norms::kBefore;
      if (before) norm(prefix + "attn_norm.weight", 1.0f, m_.n_embd);
      if (family_.delta_net && i < m_.n_layer && (i + 1) % m_.attention_interval != 0)
        declare_delta_net(prefix);
      else
        declare_attention(prefix, i);
      if (behind) norm(prefix + "post_attention_norm.weight", 1.0f, m_.n_embd);
      if (before) norm(fmt::format("{}{}.weight", prefix, family_.ffn_norm), 1.0f, m_.n_embd);
      if (has_experts() && family_.layers_differ)
        declare_experts_beside(prefix);
      else if (has_experts() && i >= m_.dense_layers)
        declare_experts(prefix);
      if (!has_experts() || family_.layers_differ || i < m_.dense_layers)
        declare_feed_forward(prefix, n_ff_of(i));
      if (m_.n_embd_layer > 0) {
        matrix(prefix + "inp_gate.weight", 1.0f, m_.n_embd, m_.n_embd_layer);
        matrix(prefix + "proj.weight", 1.0f, m_.n_embd_layer, m_.n_embd);
        norm(prefix + "post_norm.weight", 1.0f, m_.n_embd);
      }
      if (behind) norm(prefix + "post_ffw_norm.weight", 1.0f, m_.n_embd);
      if (family_.layers_differ) add(prefix + "layer_output_scale.weight", GGML_TYPE_F32, 0.9f, 0.1f, 1);
      if (i < m_.n_layer) continue;
      matrix(prefix + "nextn.eh_proj.weight", 1.0f, int64_t{2} * m_.n_embd, m_.n_embd);
      norm(prefix + "nextn.enorm.weight", 1.0f, m_.n_embd);
      norm(prefix + "nextn.hnorm.weight", 1.0f, m_.n_embd);
    }
  }

  void declare_attention(const std::string& prefix, int layer) {
    using enum RandomFamily::Qkv;
    const int64_t q_row = static_cast<int64_t>(m_.n_head) * d_head_of(layer);
    const int64_t kv_row = static_cast<int64_t>(n_head_kv_of(layer)) * d_head_of(layer);
    const bool own = layer < m_.n_layer - m_.shared_layers || layer >= m_.n_layer;
    if (family_.qkv == kStacked) {
      matrix(prefix + "attn_qkv.weight", 1.4f, m_.n_embd, q_row + 2 * kv_row);
    } else {
      matrix(prefix + "attn_q.weight", 1.4f, m_.n_embd, family_.delta_net ? 2 * q_row : q_row);
      if (own) matrix(prefix + "attn_k.weight", 1.4f, m_.n_embd, kv_row);
      if (own && (!family_.layers_differ || has_window(layer)))
        matrix(prefix + "attn_v.weight", 1.0f, m_.n_embd, kv_row);
    }
    matrix(prefix + "attn_output.weight", 1.0f, q_row, m_.n_embd);
    if (family_.qkv == kBias || (family_.qkv == kOptionalBias && m_.qkv_bias)) {
      bias(prefix + "attn_q.bias", q_row);
      bias(prefix + "attn_k.bias", kv_row);
      bias(prefix + "attn_v.bias", kv_row);
    }
    if (family_.sinks) bias(prefix + "attn_sinks.weight", m_.n_head);
    if (family_.expert_biases || (family_.qkv == kOptionalBias && m_.output_bias))
      bias(prefix + "attn_output.bias", m_.n_embd);
    if (family_.qk_norm != RandomFamily::QkNorm::kNone) {
      const bool all = family_.qk_norm == RandomFamily::QkNorm::kAllHeads;
      // Where logits are not scaled, a narrow head's stay near 1 by its norms.
      const float mean = family_.layers_differ ? 0.6f : 1.4f;
      norm(prefix + "attn_q_norm.weight", mean, all ? q_row : d_head_of(layer));
      if (own) norm(prefix + "attn_k_norm.weight", mean, all ? kv_row : d_head_of(layer));
    }
  }

  void declare_delta_net(const std::string& prefix) {
    const int64_t inner = int64_t{m_.delta_heads} * m_.delta_d_head;
    const int64_t channels = inner + int64_t{2} * m_.delta_key_heads * m_.delta_d_head;
    matrix(prefix + "attn_qkv.weight", 1.0f, m_.n_embd, channels);
    matrix(prefix + "attn_gate.weight", 1.4f, m_.n_embd, inner);
    matrix(prefix + "ssm_beta.weight", 1.4f, m_.n_embd, m_.delta_heads);
    matrix(prefix + "ssm_alpha.weight", 1.4f, m_.n_embd, m_.delta_heads);
    bias(prefix + "ssm_dt.bias", m_.delta_heads);
    // Below 0: matrices forget half of what they hold in a few tokens to a few dozen.
    add(prefix + "ssm_a", GGML_TYPE_F32, -0.1f, 0.03f, m_.delta_heads);
    add(prefix + "ssm_conv1d.weight", GGML_TYPE_F32, 0.0f, 0.7f, m_.delta_kernel, channels);
    norm(prefix + "ssm_norm.weight", 1.0f, m_.delta_d_head);
    matrix(prefix + "ssm_out.weight", 1.0f, inner, m_.n_embd);
  }

  void declare_feed_forward(const std::string& prefix, int64_t width) {
    if (family_.qkv == RandomFamily::Qkv::kStacked) {
      matrix(prefix + "ffn_up.weight", 1.0f, m_.n_embd, 2 * width);
    } else {
      matrix(prefix + "ffn_gate.weight", 1.0f, m_.n_embd, width);
      matrix(prefix + "ffn_up.weight", 1.0f, m_.n_embd, width);
    }
    matrix(prefix + "ffn_down.weight", 1.0f, width, m_.n_embd);
  }

  /// Converters leave the router as it is. Wide apart, so that roundings choose no other experts. `scale`: of
  /// what it reads.
  void declare_router(const std::string& prefix, float scale = 1.0f) {
    add(prefix + "ffn_gate_inp.weight", GGML_TYPE_F32, 0.0f,
        2.0f / scale / std::sqrt(static_cast<float>(m_.n_embd)), m_.n_embd, m_.n_expert);
  }

  /// As families have them whose layers differ: beside a dense feed-forward, gate and up in one.
  void declare_experts_beside(const std::string& prefix) {
    declare_router(prefix, 1.0f / std::sqrt(static_cast<float>(m_.n_embd)));
    norm(prefix + "ffn_gate_inp.scale", 1.0f, m_.n_embd);
    matrix(prefix + "ffn_gate_up_exps.weight", 1.0f, m_.n_embd, int64_t{2} * m_.n_ff_expert, m_.n_expert);
    matrix(prefix + "ffn_down_exps.weight", 1.0f, m_.n_ff_expert, m_.n_embd, m_.n_expert);
    norm(prefix + "ffn_down_exps.scale", 1.0f, m_.n_expert);
    for (const char* name : {"pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"})
      norm(fmt::format("{}{}.weight", prefix, name), 1.0f, m_.n_embd);
  }

  void declare_experts(const std::string& prefix) {
    declare_router(prefix);
    if (family_.router_bias) bias(prefix + "exp_probs_b.bias", m_.n_expert);
    matrix(prefix + "ffn_gate_exps.weight", 1.0f, m_.n_embd, m_.n_ff_expert, m_.n_expert);
    matrix(prefix + "ffn_up_exps.weight", 1.0f, m_.n_embd, m_.n_ff_expert, m_.n_expert);
    matrix(prefix + "ffn_down_exps.weight", 1.0f, m_.n_ff_expert, m_.n_embd, m_.n_expert);
    if (family_.expert_biases) {
      bias(prefix + "ffn_gate_inp.bias", m_.n_expert);
      for (const char* name : {"gate", "up"})
        add(fmt::format("{}ffn_{}_exps.bias", prefix, name), GGML_TYPE_F32, 0.0f, 0.3f, m_.n_ff_expert,
            m_.n_expert);
      add(prefix + "ffn_down_exps.bias", GGML_TYPE_F32, 0.0f, 0.3f, m_.n_embd, m_.n_expert);
    }
    if (m_.n_ff_shared == 0) return;
    matrix(prefix + "ffn_gate_shexp.weight", 1.0f, m_.n_embd, m_.n_ff_shared);
    matrix(prefix + "ffn_up_shexp.weight", 1.0f, m_.n_embd, m_.n_ff_shared);
    matrix(prefix + "ffn_down_shexp.weight", 1.0f, m_.n_ff_shared, m_.n_embd);
    if (family_.delta_net)
      add(prefix + "ffn_gate_inp_shexp.weight", GGML_TYPE_F32, 0.0f,
          2.0f / std::sqrt(static_cast<float>(m_.n_embd)), m_.n_embd);
  }

  /// Divisors of the RoPE frequencies as Llama 3.1 has them: factor 8 for wavelengths past 8192 tokens, none
  /// below a quarter of that, linear in between.
  std::vector<float> llama3_factors() const {
    std::vector<float> factors;
    for (int i = 0; i < m_.d_head; i += 2) {
      const double wavelength =
          2 * std::numbers::pi *
          std::pow(static_cast<double>(m_.rope_base), static_cast<double>(i) / m_.d_head);
      const double smooth = std::clamp((8192 / wavelength - 1) / 3, 0.0, 1.0);
      factors.push_back(static_cast<float>(1 / ((1 - smooth) / 8 + smooth)));
    }
    return factors;
  }

  void write_tensor(FILE* file, const Entry& entry) const {
    const int64_t row = entry.tensor->ne[0];
    const int64_t rows = ggml_nrows(entry.tensor);
    if (!entry.values.empty()) return put(file, entry.values.data(), entry.values.size() * sizeof(float));
    // A slice of about 1M values a thread at a time: large enough to keep them busy, small enough for any
    // model.
    const int64_t slice = std::max<int64_t>(1, (1 << 20) / row);
    std::vector<std::vector<uint8_t>> out(static_cast<size_t>(threads_));
    for (int64_t first = 0; first < rows; first += slice * threads_) {
      std::vector<std::jthread> pool;
      for (int t = 0; t < threads_; ++t) {
        const int64_t begin = first + t * slice;
        auto& bytes = out[static_cast<size_t>(t)];
        bytes.clear();
        if (begin >= rows) continue;
        const int64_t count = std::min(slice, rows - begin);
        pool.emplace_back(
            [&entry, &bytes, begin, count, row] { bytes = make_rows(entry, begin, count, row); });
      }
      pool.clear();  // joins
      for (const auto& bytes : out) put(file, bytes.data(), bytes.size());
    }
  }

  static std::vector<uint8_t> make_rows(const Entry& entry, int64_t begin, int64_t count, int64_t row) {
    std::vector<float> values(static_cast<size_t>(count * row));
    for (size_t i = 0; i < values.size(); ++i)
      // In double the product is exact, so that fused and separate operations agree.
      values[i] =
          static_cast<float>(entry.mean + static_cast<double>(entry.deviation) *
                                              normal(entry.stream, static_cast<uint64_t>(begin * row) + i));
    const auto type = entry.tensor->type;
    std::vector<uint8_t> bytes(ggml_row_size(type, row) * static_cast<size_t>(count));
    if (type == GGML_TYPE_F32)
      std::memcpy(bytes.data(), values.data(), bytes.size());
    else
      ggml_quantize_chunk(type, values.data(), bytes.data(), 0, count, row, nullptr);
    return bytes;
  }

  const RandomModel& m_;
  const RandomFamily& family_;
  int threads_;
  ggml_context_ptr ctx_;
  gguf_context_ptr gguf_;
  std::vector<Entry> entries_;
};

}  // namespace

std::vector<std::string> random_model_shapes() {
  return {"tiny", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen3.5-0.8b", "llama3-8b", "gemma4-e2b", "qwen3moe-4x"};
}

RandomModel random_model_shape(std::string_view name) {
  RandomModel m;
  if (name == "tiny") return m;
  if (name == "qwen2.5-0.5b" || name == "qwen2.5-1.5b") {
    const bool small = name == "qwen2.5-0.5b";
    m.family = "qwen2";
    m.n_layer = small ? 24 : 28;
    m.n_embd = small ? 896 : 1536;
    m.n_head = small ? 14 : 12;
    m.n_head_kv = 2;
    m.d_head = small ? 64 : 128;
    m.n_ff = small ? 4864 : 8960;
    m.n_vocab = 151936;
    m.n_ctx = 32768;
    m.rms_eps = 1e-6f;
    m.rope_base = 1e6f;
    m.tied = true;
    return m;
  }
  if (name == "qwen3.5-0.8b") {
    m.family = "qwen35";
    m.n_layer = 24;
    m.n_embd = 1024;
    m.n_head = 8;
    m.n_head_kv = 2;
    m.d_head = 256;
    m.n_rot = 64;
    m.n_ff = 3584;
    m.n_vocab = 248320;
    m.n_ctx = 262144;
    m.rms_eps = 1e-6f;
    m.rope_base = 1e7f;
    m.tied = true;
    m.delta_key_heads = 16;
    m.delta_heads = 16;
    m.delta_d_head = 128;
    return m;
  }
  if (name == "llama3-8b") {
    m.n_layer = 32;
    m.n_embd = 4096;
    m.n_head = 32;
    m.n_head_kv = 8;
    m.d_head = 128;
    m.n_ff = 14336;
    m.n_vocab = 128256;
    m.n_ctx = 8192;
    m.rope_base = 500000.0f;
    return m;
  }
  if (name == "gemma4-e2b") {
    m.family = "gemma4";
    m.n_layer = 35;
    m.n_embd = 1536;
    m.n_head = 8;
    m.n_head_kv = 1;
    m.d_head = 512;
    m.n_ff = 6144;
    m.n_vocab = 262144;
    m.n_ctx = 131072;
    m.rms_eps = 1e-6f;
    m.rope_base = 1e6f;
    m.tied = true;
    m.window = 512;
    m.window_period = 5;
    m.d_head_window = 256;
    m.shared_layers = 20;
    m.n_ff_above = 12288;
    m.n_embd_layer = 256;
    m.logit_softcap = 30.0f;
    return m;
  }
  if (name == "qwen3moe-4x") {
    m.family = "qwen3moe";
    m.n_layer = 12;
    m.n_embd = 1024;
    m.n_head = 16;
    m.n_head_kv = 4;
    m.d_head = 128;
    m.n_ff = 6144;
    m.n_vocab = 32000;
    m.n_ctx = 32768;
    m.rms_eps = 1e-6f;
    m.rope_base = 1e6f;
    m.n_expert = 4;
    m.n_expert_used = 2;
    m.n_ff_expert = 3072;
    return m;
  }
  throw Error(
      fmt::format("unknown shape \"{}\"; use one of: {}", name, fmt::join(random_model_shapes(), ", ")));
}

ggml_type parse_weight_type(std::string_view name) {
  for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
    const auto type = static_cast<ggml_type>(i);
    const char* known = ggml_type_name(type);
    if (known == nullptr || name != known) continue;
    const bool plain = type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
    // q8_1 and q8_K hold activations; ggml writes no files in them.
    const bool activations = type == GGML_TYPE_Q8_1 || type == GGML_TYPE_Q8_K;
    if (plain || (ggml_is_quantized(type) && !activations && !ggml_quantize_requires_imatrix(type)))
      return type;
    throw Error(
        fmt::format("random matrices cannot be written as {}; use f32, f16, bf16, q8_0, q4_K ...", name));
  }
  throw Error(fmt::format("unknown type \"{}\"; use f32, f16, bf16, q4_0, q8_0, q4_K, q6_K ...", name));
}

void write_random_model(const RandomModel& model, const std::string& path, int threads) {
  const Writer writer(model, threads);
  const std::string partial = fmt::format("{}.{}.partial", path, getpid());
  FILE* file = std::fopen(partial.c_str(), "wb");
  if (file == nullptr) throw Error(fmt::format("{}: cannot write: {}", path, std::strerror(errno)));
  try {
    writer.write(file);
  } catch (const Error& e) {
    std::fclose(file);
    std::remove(partial.c_str());
    throw Error(fmt::format("{}: cannot write: {}", path, e.what()));
  }
  if (std::fclose(file) != 0 || std::rename(partial.c_str(), path.c_str()) != 0) {
    const int error = errno;
    std::remove(partial.c_str());
    throw Error(fmt::format("{}: cannot write: {}", path, std::strerror(error)));
  }
}

}  // namespace windowkv
