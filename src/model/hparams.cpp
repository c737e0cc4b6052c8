#include <fmt/format.h>
#include <ggml.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "model/families/feed_forward.h"
#include "model/family.h"

namespace windowkv {

HParams read_common(const GgufFile& file, bool layers_may_differ) {
  HParams hp;
  hp.family = file.find_string("general.architecture").value_or("");
  hp.name = file.find_string("general.name").value_or("");
  const std::string prefix = hp.family + ".";
  auto key = [&](const char* name) { return prefix + name; };
  auto refuse = [&](const std::string& what) { file.fail("not supported: " + what); };

  hp.n_layer = file.get_int(key("block_count"));
  hp.n_embd = file.get_int(key("embedding_length"));
  hp.n_head = file.get_int(key("attention.head_count"));
  if (!layers_may_differ) hp.n_head_kv = file.find_int(key("attention.head_count_kv")).value_or(hp.n_head);
  // A mixture without dense layers may name none.
  if (layers_may_differ && file.find_array_size(key("feed_forward_length"))) {
    hp.layer_n_ff = file.get_ints(key("feed_forward_length"), hp.n_layer);
    hp.n_ff = std::ranges::max(hp.layer_n_ff);
  } else {
    hp.n_ff = file.find_int(key("feed_forward_length"))
                  .value_or(file.find_int(key("expert_feed_forward_length")).value_or(0));
    if (hp.n_ff == 0) hp.n_ff = file.get_int(key("feed_forward_length"));
  }
  hp.n_ctx_train = file.get_int(key("context_length"));
  hp.rms_eps = file.get_float(key("attention.layer_norm_rms_epsilon"));

  auto embedding = file.find_tensor("token_embd.weight");
  if (!embedding) file.fail("tensor token_embd.weight is missing");
  if (embedding->ne[1] > 16'000'000)
    file.fail("a vocabulary of " + std::to_string(embedding->ne[1]) + " tokens");
  hp.n_vocab = static_cast<int>(embedding->ne[1]);
  // Some converters write another number than there are tokens; libllama reads it only where there are none,
  // and then makes up that many.
  if (const int claimed = file.find_int(key("vocab_size")).value_or(hp.n_vocab);
      claimed != hp.n_vocab && !file.find_array_size("tokenizer.ggml.tokens"))
    file.fail(key("vocab_size") + " is " + std::to_string(claimed) + ", but the embedding has " +
              std::to_string(hp.n_vocab) + " rows");

  auto positive = [&](const char* name, int value, int most) {
    if (value < 1 || value > most) file.fail(key(name) + " is " + std::to_string(value));
  };
  positive("block_count", hp.n_layer, 1024);
  for (const char* name : {"attention.head_count", "attention.head_count_kv", "feed_forward_length"})
    if (const auto size = file.find_array_size(key(name)); size && *size != hp.n_layer)
      file.fail(key(name) + " has " + std::to_string(*size) + " numbers for " + std::to_string(hp.n_layer) +
                " layers");
  positive("embedding_length", hp.n_embd, 1 << 20);
  positive("feed_forward_length", hp.n_ff, 1 << 22);
  for (const int width : hp.layer_n_ff) positive("feed_forward_length", width, 1 << 22);
  positive("attention.head_count", hp.n_head, 1 << 12);
  std::vector<int> kv_heads(static_cast<size_t>(hp.n_layer), hp.n_head_kv);
  if (layers_may_differ) kv_heads = file.get_ints(key("attention.head_count_kv"), hp.n_layer);
  hp.n_head_kv = kv_heads.front();
  for (const int count : kv_heads) positive("attention.head_count_kv", count, hp.n_head);
  positive("context_length", hp.n_ctx_train, 1 << 30);
  for (const int count : kv_heads)
    if (hp.n_head % count != 0)
      file.fail(std::to_string(hp.n_head) + " query heads cannot share " + std::to_string(count) +
                " KV heads");
  if (!(hp.rms_eps > 0 && hp.rms_eps < 1))
    file.fail(key("attention.layer_norm_rms_epsilon") + " is out of range");

  hp.d_head = file.find_int(key("attention.key_length")).value_or(hp.n_embd / hp.n_head);
  positive("attention.key_length", hp.d_head, 1024);
  if (file.find_int(key("attention.value_length")).value_or(hp.d_head) != hp.d_head)
    refuse("K and V heads of different sizes");
  hp.mixture = read_mixture(file, hp);
  hp.attention_scale = file.find_float(key("attention.scale")).value_or(0.0f);
  if (hp.attention_scale == 0) hp.attention_scale = 1.0f / std::sqrt(static_cast<float>(hp.d_head));

  hp.n_rot = file.find_int(key("rope.dimension_count")).value_or(hp.d_head);
  if (hp.n_rot < 2 || hp.n_rot > hp.d_head || hp.n_rot % 2 != 0)
    file.fail(key("rope.dimension_count") + " is " + std::to_string(hp.n_rot) + " for heads of " +
              std::to_string(hp.d_head));
  hp.rope_base = file.find_float(key("rope.freq_base")).value_or(10000.0f);
  if (!(hp.rope_base > 1)) file.fail(key("rope.freq_base") + " is out of range");
  hp.rope_n_ctx_orig = file.find_int(key("rope.scaling.original_context_length")).value_or(hp.n_ctx_train);
  hp.rope_attn_factor = file.find_float(key("rope.scaling.attn_factor")).value_or(1.0f);

  // As in llama.cpp, a factor without a type is linear scaling.
  auto scaling = file.find_string(key("rope.scaling.type")).value_or("linear");
  if (scaling == "linear" || scaling == "yarn" || scaling == "longrope") {
    // llama.cpp reads the older key where the new one is missing.
    float factor = file.find_float(key("rope.scaling.factor"))
                       .value_or(file.find_float(key("rope.scale_linear")).value_or(1.0f));
    if (factor < 0) file.fail(key("rope.scaling.factor") + " is negative");
    hp.rope_freq_scale = factor == 0 ? 1.0f : 1.0f / factor;
    if (scaling == "yarn") {
      hp.rope_ext_factor = file.find_float(key("rope.scaling.yarn_ext_factor")).value_or(1.0f);
      // ggml multiplies by 1 + 0.1·ln(factor) itself; GGUF's factor counts on that.
    }
  } else if (scaling != "none") {
    refuse("RoPE scaling \"" + scaling + "\"");
  }
  hp.attention.assign(static_cast<size_t>(hp.n_layer), {0, hp.rope_base, hp.rope_freq_scale});
  for (size_t layer = 0; layers_may_differ && layer < kv_heads.size(); ++layer)
    hp.attention[layer].heads = {hp.n_head, kv_heads[layer], hp.d_head};
  return hp;
}

void drop_further_layers(const GgufFile& file, HParams& hp) {
  const auto key = hp.family + ".nextn_predict_layers";
  const int further = file.find_int(key).value_or(0);
  if (further >= hp.n_layer) file.fail(key + " is " + std::to_string(further));
  hp.n_layer -= further;
  hp.attention.resize(static_cast<size_t>(hp.n_layer));
}

int read_window(const GgufFile& file, const HParams& hp, int missing) {
  const int window = file.find_int(hp.family + ".attention.sliding_window").value_or(missing);
  return window < hp.n_ctx_train ? window : 0;
}

void slide(const GgufFile& file, HParams& hp, AttentionSpec sliding, int period) {
  sliding.window = read_window(file, hp, sliding.window);
  period = file.find_int(hp.family + ".attention.sliding_window_pattern").value_or(period);
  if (sliding.window == 0) return;
  for (int layer = 0; layer < hp.n_layer; ++layer)
    // As libllama: of a period of 0 all layers slide.
    if (period == 0 || layer % period < period - 1) hp.attention[static_cast<size_t>(layer)] = sliding;
}

void check_window(const GgufFile& file, const Family& family, const HParams& hp) {
  const int window = read_window(file, hp);
  if (window > 0 && !family.may_slide())
    file.fail("not supported: sliding-window attention (" + std::to_string(window) +
              " tokens) in models of family \"" + hp.family + "\"");
}

float read_softcap(const GgufFile& file, const HParams& hp, const char* key, float missing) {
  const float softcap = file.find_float(hp.family + "." + key).value_or(missing);
  if (!(softcap > 0)) file.fail(fmt::format("{}.{} is {}; it must be above 0", hp.family, key, softcap));
  return softcap;
}

bool HParams::layers_alike() const {
  for (int layer = 1; layer < n_layer; ++layer)
    if (heads(layer) != heads(0)) return false;
  return true;
}

int64_t HParams::kv_unit() const {
  int64_t unit = n_layer > 0 ? kv_row(0) : kv_row();
  for (int layer = 1; layer < n_layer; ++layer) unit = std::gcd(unit, kv_row(layer));
  return unit;
}

int64_t HParams::common_units() const {
  int64_t units = 1;
  for (int layer = 0; layer < n_layer; ++layer) units = std::lcm(units, row_units(layer));
  return units;
}

int HParams::widest_layer() const {
  int widest = 0;
  for (int layer = 1; layer < n_layer; ++layer)
    if (kv_row(layer) > kv_row(widest)) widest = layer;
  return widest;
}

HeadSizes HParams::most_heads() const {
  HeadSizes most = {n_head, n_head_kv, d_head};
  for (int layer = 0; layer < n_layer; ++layer) {
    const auto sizes = heads(layer);
    most = {std::max(most.n_head, sizes.n_head), std::max(most.n_head_kv, sizes.n_head_kv),
            std::max(most.d_head, sizes.d_head)};
  }
  return most;
}

int64_t HParams::full_bytes(int64_t tokens) const {
  int64_t bytes = 0;
  for (int layer = 0; layer < n_layer; ++layer) bytes += full_rows(layer, tokens) * 4 * kv_row(layer);
  return bytes;
}

std::vector<int> HParams::full_layers() const {
  std::vector<int> layers;
  for (int layer = 0; layer < n_layer; ++layer)
    if (full(layer)) layers.push_back(layer);
  return layers;
}

bool HParams::read_above(int layer) const {
  for (int above = own_layers(); above < n_layer; ++above)
    if (rows_layer(above) == layer) return true;
  return false;
}

int64_t HParams::state_bytes() const {
  int64_t bytes = 0;
  for (int layer = 0; layer < n_layer; ++layer) bytes += state_bytes(layer);
  return bytes;
}

int64_t HParams::full_rows(int layer, int64_t tokens) const {
  if (!has_rows(layer)) return 0;
  const int64_t window = attention_of(layer).window;
  return window > 0 ? std::min(tokens, window) : tokens;
}

int64_t HParams::full_rows(int64_t tokens) const {
  int64_t rows = 0;
  for (int layer = 0; layer < n_layer; ++layer) rows += full_rows(layer, tokens);
  return rows;
}

}  // namespace windowkv
