#include "support/bert.h"

#include <ggml-cpp.h>
#include <gguf.h>

#include <cstring>
#include <random>
#include <stdexcept>

#include "support/files.h"

namespace windowkv::test {

namespace {

constexpr int kWidth = 32, kHeads = 2, kFeedForward = 64, kLayers = 2, kContext = 512;

/// Whole words only; U+2581 begins a word in llama.cpp's WordPiece.
const std::vector<const char*>& vocabulary() {
  static const std::vector<const char*> words = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁sum",
                                                 "▁up",   "▁who",  "▁is",   "▁it",   "▁?",     "▁the",
                                                 "▁text", "▁.",    "▁a",    "▁b"};
  return words;
}

class Builder {
 public:
  Builder() : ctx_(ggml_init({size_t{4} << 20, nullptr, false})), gguf_(gguf_init_empty()) {}

  void tensor(const std::string& name, float mean, float deviation, int64_t ne0, int64_t ne1 = 0) {
    auto* t = ne1 > 0 ? ggml_new_tensor_2d(ctx_.get(), GGML_TYPE_F32, ne0, ne1)
                      : ggml_new_tensor_1d(ctx_.get(), GGML_TYPE_F32, ne0);
    ggml_set_name(t, name.c_str());
    auto* values = static_cast<float*>(t->data);
    for (int64_t i = 0; i < ggml_nelements(t); ++i)
      values[i] = mean + deviation * (static_cast<float>(random_() % 2001) / 1000.0f - 1.0f);
    gguf_add_tensor(gguf_.get(), t);
  }
  void layer_norm(const std::string& name) {
    tensor(name + ".weight", 1, 0.1f, kWidth);
    tensor(name + ".bias", 0, 0.1f, kWidth);
  }
  void linear(const std::string& name, int64_t in, int64_t out, float deviation = 0.3f) {
    tensor(name + ".weight", 0, deviation, in, out);
    tensor(name + ".bias", 0, deviation, out);
  }
  float* data(const std::string& name) {
    return static_cast<float*>(ggml_get_tensor(ctx_.get(), name.c_str())->data);
  }
  gguf_context* meta() { return gguf_.get(); }

 private:
  ggml_context_ptr ctx_;
  gguf_context_ptr gguf_;
  std::mt19937 random_{7};
};

void describe(gguf_context* g, const TinyBert& model) {
  const auto key = [&](const char* name) { return model.family + "." + name; };
  gguf_set_val_str(g, "general.architecture", model.family.c_str());
  gguf_set_val_u32(g, key("block_count").c_str(), kLayers);
  gguf_set_val_u32(g, key("context_length").c_str(), kContext);
  gguf_set_val_u32(g, key("embedding_length").c_str(), kWidth);
  gguf_set_val_u32(g, key("feed_forward_length").c_str(), kFeedForward);
  gguf_set_val_u32(g, key("attention.head_count").c_str(), kHeads);
  gguf_set_val_f32(g, key("attention.layer_norm_epsilon").c_str(), 1e-12f);
  gguf_set_val_bool(g, key("attention.causal").c_str(), false);
  gguf_set_val_u32(g, key("pooling_type").c_str(), 4);  // LLAMA_POOLING_TYPE_RANK
  if (!model.labels.empty()) {
    std::vector<const char*> labels;
    for (const auto& label : model.labels) labels.push_back(label.c_str());
    gguf_set_arr_str(g, key("classifier.output_labels").c_str(), labels.data(), labels.size());
  }
  const auto& words = vocabulary();
  gguf_set_val_str(g, "tokenizer.ggml.model", "bert");
  gguf_set_val_str(g, "tokenizer.ggml.pre", "default");
  gguf_set_arr_str(g, "tokenizer.ggml.tokens", const_cast<const char**>(words.data()), words.size());
  std::vector<int32_t> types(words.size(), 1);
  for (size_t i = 0; i < 5; ++i) types[i] = i == 1 ? 2 : 3;
  gguf_set_arr_data(g, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
  gguf_set_val_u32(g, "tokenizer.ggml.token_type_count", 2);
  gguf_set_val_u32(g, "tokenizer.ggml.padding_token_id", 0);
  gguf_set_val_u32(g, "tokenizer.ggml.unknown_token_id", 1);
  gguf_set_val_u32(g, "tokenizer.ggml.cls_token_id", 2);
  gguf_set_val_u32(g, "tokenizer.ggml.bos_token_id", 2);
  gguf_set_val_u32(g, "tokenizer.ggml.seperator_token_id", 3);
  gguf_set_val_u32(g, "tokenizer.ggml.eos_token_id", 3);
  gguf_set_val_u32(g, "tokenizer.ggml.mask_token_id", 4);
}

}  // namespace

std::string write_tiny_bert(std::string_view name, const TinyBert& model) {
  Builder b;
  describe(b.meta(), model);
  b.tensor("token_embd.weight", 0, 1, kWidth, static_cast<int64_t>(vocabulary().size()));
  b.tensor("token_types.weight", 0, 0.1f, kWidth, 2);
  b.tensor("position_embd.weight", 0, 0.3f, kWidth, kContext);
  b.layer_norm("token_embd_norm");
  for (int i = 0; i < kLayers; ++i) {
    const auto prefix = "blk." + std::to_string(i) + ".";
    for (const char* part : {"attn_q", "attn_k", "attn_v", "attn_output"})
      b.linear(prefix + part, kWidth, kWidth);
    b.layer_norm(prefix + "attn_output_norm");
    b.linear(prefix + "ffn_up", kWidth, kFeedForward);
    b.linear(prefix + "ffn_down", kFeedForward, kWidth);
    b.layer_norm(prefix + "layer_output_norm");
  }
  if (model.head) {
    b.linear("cls", kWidth, kWidth);
    b.linear("cls.output", kWidth, static_cast<int64_t>(model.bias.size()), model.head_deviation);
    std::memcpy(b.data("cls.output.bias"), model.bias.data(), model.bias.size() * sizeof(float));
  }
  const auto path = temp_path(name);
  if (!gguf_write_to_file(b.meta(), path.c_str(), /*only_meta=*/false))
    throw std::runtime_error("cannot write " + path);
  return path;
}

}  // namespace windowkv::test
