// Gemma 4: Gemma 3 whose layers with a sliding window have heads of another width and number than
// those that see everything, where K may be V too; V has a norm without weights. The small models (E2B, E4B)
// have embeddings for each layer, feed-forwards of two widths, and last layers without K and V of their
// own; 26B-A4B has experts beside a dense feed-forward.
#include <ggml.h>

#include <cmath>

#include "model/families/families.h"
#include "model/families/pre_norm_decoder.h"

namespace windowkv {

namespace {

class Gemma4 final : public PreNormDecoder {
 public:
  std::string_view arch() const override { return "gemma4"; }
  bool may_slide() const override { return true; }
  bool layers_may_differ() const override { return true; }
  void read(const GgufFile& file, HParams& hp) const override {
    auto key = [&](const char* name) { return hp.family + "." + name; };
    hp.n_embd_layer = file.find_int(key("embedding_length_per_layer_input")).value_or(0);
    if (hp.n_embd_layer > 1 << 16)
      file.fail(key("embedding_length_per_layer_input") + " is " + std::to_string(hp.n_embd_layer));
    hp.rope_mode = GGML_ROPE_TYPE_NEOX;
    hp.embedding_scale = std::sqrt(static_cast<float>(hp.n_embd));
    hp.activation = HParams::Activation::kGelu;
    hp.attention_scale = 1.0f;
    // As in libllama, 0 stands for no bound, and where the file says nothing there is one.
    if (file.find_float(key("final_logit_softcapping")) != 0.0f)
      hp.logit_softcap = read_softcap(file, hp, "final_logit_softcapping", 30);
    if (auto& m = hp.mixture; m.experts > 0) {
      m.beside_dense = true;
      m.dense_layers = 0;  // as in libllama, the file's own number is not read
      m.n_ff_shared = hp.n_ff;
    }
    read_layers(file, hp);
    read_shared(file, hp);
  }

 protected:
  Presence qk_norm() const override { return Presence::kRequired; }
  Presence post_norms() const override { return Presence::kRequired; }
  Presence wv() const override { return Presence::kOptional; }
  bool v_norm() const override { return true; }
  Presence mixture() const override { return Presence::kOptional; }
  Presence output_scale() const override { return Presence::kOptional; }

 private:
  /// The last layers may read K and V of the last layer but one that has some, or of the last: which of the
  /// two is settled by whether they slide.
  static void read_shared(const GgufFile& file, HParams& hp) {
    const std::string key = hp.family + ".attention.shared_kv_layers";
    const int shared = file.find_int(key).value_or(0);
    if (shared >= hp.n_layer) file.fail(key + " is " + std::to_string(shared));
    hp.shared_layers = shared;
    for (int layer = hp.own_layers(); layer < hp.n_layer; ++layer)
      if (const int other = hp.rows_layer(layer); other < 0 || hp.slides(other) != hp.slides(layer))
        file.fail("not supported: " + key + " is " + std::to_string(shared) + ": layer " +
                  std::to_string(layer) + " would read K and V of a layer of another kind");
  }

  static void read_layers(const GgufFile& file, HParams& hp) {
    auto key = [&](const char* name) { return hp.family + "." + name; };
    auto in_range = [&](const char* name, int value, int least, int most) {
      if (value < least || value > most) file.fail(key(name) + " is " + std::to_string(value));
      return value;
    };
    AttentionSpec sliding = {.rope_base = file.find_float(key("rope.freq_base_swa")).value_or(10000.0f),
                             .rope_factors = false};
    sliding.window =
        in_range("attention.sliding_window", file.get_int(key("attention.sliding_window")), 1, 1 << 30);
    const int width =
        in_range("attention.key_length_swa", file.get_int(key("attention.key_length_swa")), 1, 1024);
    if (file.get_int(key("attention.value_length_swa")) != width)
      file.fail("not supported: K and V heads of different sizes");
    sliding.n_rot = file.find_int(key("rope.dimension_count_swa")).value_or(hp.n_rot);
    if (sliding.n_rot < 2 || sliding.n_rot > width || sliding.n_rot % 2 != 0)
      file.fail(key("rope.dimension_count_swa") + " is " + std::to_string(sliding.n_rot) + " for heads of " +
                std::to_string(width));
    const auto slides = file.get_ints(key("attention.sliding_window_pattern"), hp.n_layer);
    HeadSizes of_full, of_sliding;
    for (int layer = 0; layer < hp.n_layer; ++layer) {
      auto& spec = hp.attention[static_cast<size_t>(layer)];
      auto heads = spec.heads;
      const bool has_window = slides[static_cast<size_t>(layer)] != 0;
      if (has_window) {
        heads.d_head = width;
        spec = sliding;
      }
      spec.heads = heads;
      auto& known = has_window ? of_sliding : of_full;
      if (known.d_head == 0) known = heads;
      if (known != heads)
        file.fail("not supported: " + key("attention.head_count_kv") + " differs among layers of one kind");
    }
    if (of_full.d_head == 0) of_full = of_sliding;  // of a model whose layers all slide
    hp.n_head_kv = of_full.n_head_kv;
    hp.d_head = of_full.d_head;
  }
};

}  // namespace

const Family* gemma4_family() {
  static const Gemma4 family;
  return &family;
}

}  // namespace windowkv
