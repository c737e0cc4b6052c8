// GGUF files, up to where weights would be loaded: metadata, tensors, vocabulary. What begins with "GGUF" is
// the file; anything else is a list of changes to a small model, because few changes of bytes get past ggml's
// own checks.
#include <fuzzer/FuzzedDataProvider.h>
#include <gguf.h>

#include <array>
#include <memory>
#include <vector>

#include "input.h"
#include "model/family.h"
#include "model/fingerprint.h"
#include "model/gguf_file.h"
#include "model/weights.h"
#include "windowkv/vocab.h"

using namespace windowkv;

namespace {

constexpr std::array kKeys = {
    "general.architecture",
    "general.name",
    "general.alignment",
    "llama.block_count",
    "llama.embedding_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.feed_forward_length",
    "llama.context_length",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.vocab_size",
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.expert_count",
    "llama.attention.sliding_window",
    "llama.attention.scale",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
    "llama.rope.scaling.original_context_length",
    "llama.rope.scaling.attn_factor",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.rope.scale_linear",
    "llama.rope.scaling.yarn_ext_factor",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.chat_template",
    "split.count",
};
constexpr std::array kTensors = {
    "token_embd.weight",     "output_norm.weight",     "output.weight",
    "rope_freqs.weight",     "blk.0.attn_norm.weight", "blk.0.attn_q.weight",
    "blk.0.attn_k.weight",   "blk.0.attn_v.weight",    "blk.0.attn_output.weight",
    "blk.0.ffn_norm.weight", "blk.0.ffn_gate.weight",  "blk.0.ffn_up.weight",
    "blk.0.ffn_down.weight", "blk.0.attn_q.bias",      "blk.0.attn_q_norm.weight",
};
constexpr int64_t kEmbd = 32, kFf = 32, kVocab = 8;

struct TensorInfo {
  std::string name;
  ggml_type type = GGML_TYPE_F32;
  std::vector<int64_t> ne;
};

std::vector<TensorInfo> small_tensors() {
  std::vector<TensorInfo> tensors;
  for (const std::string name : kTensors) {
    if (name.find("bias") != name.npos || name.find("q_norm") != name.npos || name == "rope_freqs.weight")
      continue;
    const bool norm = name.find("norm") != name.npos;
    const bool table = name == "token_embd.weight" || name == "output.weight";
    tensors.push_back({name, norm ? GGML_TYPE_F32 : GGML_TYPE_Q8_0,
                       norm ? std::vector{kEmbd} : std::vector{kEmbd, table ? kVocab : kEmbd}});
  }
  return tensors;
}

void set_small(gguf_context* g) {
  gguf_set_val_str(g, "general.architecture", "llama");
  gguf_set_val_u32(g, "llama.block_count", 1);
  gguf_set_val_u32(g, "llama.embedding_length", kEmbd);
  gguf_set_val_u32(g, "llama.attention.head_count", 2);
  gguf_set_val_u32(g, "llama.attention.head_count_kv", 2);
  gguf_set_val_u32(g, "llama.feed_forward_length", kFf);
  gguf_set_val_u32(g, "llama.context_length", 512);
  gguf_set_val_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
  gguf_set_val_str(g, "tokenizer.ggml.model", "gpt2");
  gguf_set_val_str(g, "tokenizer.ggml.pre", "gpt-2");
  std::array<const char*, kVocab> tokens = {"<s>", "</s>", "a", "b", "ab", "Ġ", "Ċ", "c"};
  gguf_set_arr_str(g, "tokenizer.ggml.tokens", tokens.data(), tokens.size());
  const std::array<int32_t, kVocab> types = {3, 3, 1, 1, 1, 1, 1, 1};
  gguf_set_arr_data(g, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
  std::array merges = {"a b"};
  gguf_set_arr_str(g, "tokenizer.ggml.merges", merges.data(), merges.size());
  gguf_set_val_u32(g, "tokenizer.ggml.bos_token_id", 0);
  gguf_set_val_u32(g, "tokenizer.ggml.eos_token_id", 1);
}

void set_array(gguf_context* g, const char* key, FuzzedDataProvider& in) {
  const auto type =
      in.PickValueInArray({GGUF_TYPE_UINT8, GGUF_TYPE_INT32, GGUF_TYPE_UINT32, GGUF_TYPE_FLOAT32});
  const auto bytes = in.ConsumeBytes<uint8_t>(in.ConsumeIntegralInRange<size_t>(0, 64));
  const size_t size = type == GGUF_TYPE_UINT8 ? 1 : 4;
  gguf_set_arr_data(g, key, type, bytes.data(), bytes.size() / size);
}

void set_texts(gguf_context* g, const char* key, FuzzedDataProvider& in) {
  std::vector<std::string> texts;
  std::vector<const char*> pointers;
  for (int count = in.ConsumeIntegralInRange(0, 12); count > 0; --count)
    texts.push_back(in.ConsumeRandomLengthString(16));
  for (const auto& text : texts) pointers.push_back(text.c_str());
  gguf_set_arr_str(g, key, pointers.data(), pointers.size());
}

void set_value(gguf_context* g, const char* key, FuzzedDataProvider& in) {
  switch (in.ConsumeIntegralInRange(0, 11)) {
    case 0:
      return gguf_set_val_u32(g, key, in.ConsumeIntegral<uint8_t>());
    case 1:
      return gguf_set_val_u32(g, key, in.ConsumeIntegral<uint32_t>());
    case 2:
      return gguf_set_val_i32(g, key, in.ConsumeIntegral<int32_t>());
    case 3:
      return gguf_set_val_u64(g, key, in.ConsumeIntegral<uint64_t>());
    case 4:
      return gguf_set_val_i64(g, key, in.ConsumeIntegral<int64_t>());
    case 5:
      return gguf_set_val_u8(g, key, in.ConsumeIntegral<uint8_t>());
    case 6:
      return gguf_set_val_bool(g, key, in.ConsumeBool());
    case 7:
      return gguf_set_val_f32(g, key, in.ConsumeFloatingPoint<float>());
    case 8:
      return gguf_set_val_f64(g, key, in.ConsumeFloatingPoint<double>());
    case 9:
      return gguf_set_val_str(g, key, in.ConsumeRandomLengthString(32).c_str());
    case 10:
      return set_array(g, key, in);
    default:
      return set_texts(g, key, in);
  }
}

void change_tensor(std::vector<TensorInfo>& tensors, FuzzedDataProvider& in) {
  const std::string name = in.PickValueInArray(kTensors);
  std::erase_if(tensors, [&](const TensorInfo& t) { return t.name == name; });
  if (in.ConsumeBool()) return;
  TensorInfo tensor{name,
                    in.PickValueInArray({GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_K,
                                         GGML_TYPE_I32, GGML_TYPE_Q8_K, GGML_TYPE_IQ2_XXS}),
                    {}};
  for (int dims = in.ConsumeIntegralInRange(1, 4); dims > 0; --dims)
    tensor.ne.push_back(in.ConsumeIntegralInRange(1, 64));
  tensor.ne[0] *= ggml_blck_size(tensor.type);
  tensors.push_back(std::move(tensor));
}

/// The file as ggml writes it, with data of zeros.
std::vector<uint8_t> changed_file(FuzzedDataProvider& in) {
  const gguf_context_ptr g(gguf_init_empty());
  set_small(g.get());
  auto tensors = small_tensors();
  struct Flip {
    size_t at;
    uint8_t bits;
  };
  std::vector<Flip> flips;
  for (int changes = 0; in.remaining_bytes() > 0 && changes < 16; ++changes) {
    const char* key = in.PickValueInArray(kKeys);
    const std::string_view name(key);
    switch (in.ConsumeIntegralInRange(0, 7)) {
      case 0:
        gguf_remove_key(g.get(), key);
        break;
      case 1:
        change_tensor(tensors, in);
        break;
      case 2:
        flips.push_back({in.ConsumeIntegral<uint16_t>(), in.ConsumeIntegral<uint8_t>()});
        break;
      default:
        // ggml's writer checks these itself, by ending the process.
        if (name != "general.alignment") set_value(g.get(), key, in);
    }
  }
  const ggml_context_ptr ctx(
      ggml_init({ggml_tensor_overhead() * (tensors.size() + 1), nullptr, /*no_alloc=*/true}));
  for (const auto& t : tensors) {
    auto* tensor = ggml_new_tensor(ctx.get(), t.type, static_cast<int>(t.ne.size()), t.ne.data());
    ggml_set_name(tensor, t.name.c_str());
    gguf_add_tensor(g.get(), tensor);
  }
  const size_t meta = gguf_get_meta_size(g.get());
  size_t data = 0;
  for (int64_t i = 0; i < gguf_get_n_tensors(g.get()); ++i)
    data = gguf_get_tensor_offset(g.get(), i) +
           GGML_PAD(gguf_get_tensor_size(g.get(), i), GGUF_DEFAULT_ALIGNMENT);
  std::vector<uint8_t> bytes(meta + std::min<size_t>(data, 1 << 16));
  gguf_get_meta_data(g.get(), bytes.data());
  for (const auto& flip : flips) bytes[flip.at % meta] ^= flip.bits;
  return bytes;
}

/// As Model::load.
void read_model(const std::string& path) {
  const GgufFile file(path);
  const auto& family = find_family(file);
  auto hp = read_common(file, family.layers_may_differ());
  family.read(file, hp);
  Weights weights;
  WeightLoader loader(file);
  family.declare(loader, hp, weights);
  loader.check_all_known();
  fingerprint(file, hp);
  if (const auto tokens = file.find_array_size("tokenizer.ggml.tokens"); tokens && *tokens != hp.n_vocab)
    file.fail("another number of tokens");
}

void read_vocabulary(const std::string& path) {
  const GgufFile file(path);
  const Vocab vocab(file);
  const auto tokens = vocab.tokenize("ab ba\nA text: <s>ü</s>");
  for (const auto token : tokens)
    fuzz::require(token >= 0 && token < vocab.size(), "a token that the vocabulary does not have");
  vocab.text(tokens, /*special=*/true);
  vocab.is_end(0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::InputFile file("model.gguf");
  auto text = fuzz::text_of(data, size);
  std::vector<uint8_t> made;
  if (!text.starts_with("GGUF")) {
    FuzzedDataProvider in(data, size);
    made = changed_file(in);
    text = fuzz::text_of(made.data(), made.size());
  }
  const auto& path = file.fill(text);
  fuzz::refuse_or([&] { read_model(path); });
  fuzz::refuse_or([&] { read_vocabulary(path); });
  return 0;
}
