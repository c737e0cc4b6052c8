// Files that are not what they should be: each is refused with an Error, and none harms the process.
#include <fmt/format.h>
#include <ggml-cpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <new>
#include <random>

#include "support/files.h"
#include "support/gguf_edit.h"
#include "support/models.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"

// ggml and libllama allocate through these too, so a size taken from a damaged file shows here.
namespace {
std::atomic<size_t> largest_allocation = 0;
void* allocate(size_t size) {
  for (size_t seen = largest_allocation;
       size > seen && !largest_allocation.compare_exchange_weak(seen, size);) {
  }
  // Refused before the system is asked: it would grant nearly any size and charge for it later.
  void* p = size < (size_t{1} << 32) ? std::malloc(size > 0 ? size : 1) : nullptr;
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
}  // namespace
void* operator new(size_t size) {
  return allocate(size);
}
void* operator new[](size_t size) {
  return allocate(size);
}
void operator delete(void* p) noexcept {
  std::free(p);
}
void operator delete[](void* p) noexcept {
  std::free(p);
}
void operator delete(void* p, size_t) noexcept {
  std::free(p);
}
void operator delete[](void* p, size_t) noexcept {
  std::free(p);
}

namespace windowkv::test {
namespace {

std::string tiny() {
  return random_model_path("tiny", {});
}

/// The message of the Error that loading throws; "" where it loads.
std::string load_error(const std::string& path) {
  try {
    load(path);
    return "";
  } catch (const Error& e) {
    EXPECT_EQ(std::string_view(e.what()).find('\n'), std::string_view::npos) << e.what();
    return e.what();
  }
}

void expect_refused(const std::string& path, std::string_view reason) {
  const auto error = load_error(path);
  EXPECT_NE(error, "") << "loads";
  EXPECT_NE(error.find(reason), std::string::npos) << error;
  EXPECT_NE(error.find(path), std::string::npos) << "does not name the file: " << error;
}

using Edit = std::function<void(GgufEdit&)>;

void set_ints(GgufEdit& e, const char* key, const std::vector<int32_t>& values) {
  gguf_set_arr_data(e.meta, key, GGUF_TYPE_INT32, values.data(), values.size());
}

/// A file for each family and seed.
std::string source_path(const RandomModel& model) {
  return random_model_path(fmt::format("source_{}_{}", model.family, model.seed), model);
}

void expect_edit_refused(const Edit& edit, std::string_view reason, const RandomModel& model = {}) {
  expect_refused(edit_gguf(source_path(model), "edited.gguf", edit), reason);
}

TEST(Hostile, TheTinyModelItselfLoads) {
  EXPECT_EQ(load_error(tiny()), "");
}

TEST(Hostile, NotAFileOrNotGguf) {
  expect_refused("/nonexistent/model.gguf", "cannot open");
  expect_refused(std::filesystem::temp_directory_path().string(), "not a file");
  expect_refused(write_bytes("empty.gguf", {}), "not a GGUF");
  const std::string text = "This is a text file that somebody took for a model, long enough for a header.";
  expect_refused(write_bytes("text.gguf", {reinterpret_cast<const uint8_t*>(text.data()), text.size()}),
                 "not a GGUF");
  const std::vector<uint8_t> magic = {'G', 'G', 'U', 'F'};
  expect_refused(write_bytes("magic.gguf", magic), "not a GGUF");
}

TEST(Hostile, TruncatedAnywhere) {
  const auto path = temp_path("truncated.gguf");
  std::filesystem::copy_file(minilong_path("q8_0"), path);
  const gguf_context_ptr gguf(gguf_init_from_file(path.c_str(), {true, nullptr}));
  const auto data = static_cast<int64_t>(gguf_get_data_offset(gguf.get()));
  const int64_t last = gguf_get_n_tensors(gguf.get()) - 1;
  const auto end = data + static_cast<int64_t>(gguf_get_tensor_offset(gguf.get(), last) +
                                               gguf_get_tensor_size(gguf.get(), last));
  std::vector<int64_t> cuts = {end - 1, end - 4096, data + 1, data, data - 1, 64, 33, 32,
                               24,      23,         16,       8,    4,        1,  0};
  for (int i = 1; i < 20; ++i) cuts.push_back(data + (end - data) * i / 20);
  for (int i = 1; i < 40; ++i) cuts.push_back(data * i / 40);
  std::sort(cuts.rbegin(), cuts.rend());
  for (auto size : cuts) {
    SCOPED_TRACE(fmt::format("{} of {} bytes", size, end));
    std::filesystem::resize_file(path, static_cast<uintmax_t>(size));
    EXPECT_NE(load_error(path), "");
  }
}

TEST(Hostile, MissingTensors) {
  for (const char* name : {"token_embd.weight", "output_norm.weight", "blk.0.attn_q.weight",
                           "blk.1.attn_k.weight", "blk.1.ffn_down.weight", "blk.0.attn_norm.weight"})
    expect_edit_refused([&](GgufEdit& e) { e.remove_tensor(name); }, name);
  RandomModel qwen2;
  qwen2.family = "qwen2";
  expect_edit_refused([](GgufEdit& e) { e.remove_tensor("blk.0.attn_q.bias"); }, "blk.0.attn_q.bias", qwen2);
  RandomModel qwen3;
  qwen3.family = "qwen3";
  expect_edit_refused([](GgufEdit& e) { e.remove_tensor("blk.0.attn_k_norm.weight"); }, "attn_k_norm", qwen3);
}

TEST(Hostile, MisshapenTensors) {
  auto replaced = [](const char* name, std::vector<int64_t> shape) {
    return [=](GgufEdit& e) { e.replace_tensor(name, shape); };
  };
  expect_edit_refused(replaced("blk.0.attn_q.weight", {64, 63}), "attn_q");
  expect_edit_refused(replaced("blk.0.attn_q.weight", {32, 128}), "attn_q");
  expect_edit_refused(replaced("blk.0.attn_norm.weight", {65}), "attn_norm");
  expect_edit_refused(replaced("blk.0.attn_norm.weight", {64, 2}), "attn_norm");
  expect_edit_refused(replaced("output.weight", {64, 255}), "output.weight");
  expect_edit_refused(replaced("token_embd.weight", {63, 256}), "token_embd");
  expect_edit_refused(replaced("rope_freqs.weight", {9}), "rope_freqs");
}

TEST(Hostile, MetadataOfAnotherType) {
  auto text = [](const char* key) { return [=](GgufEdit& e) { gguf_set_val_str(e.meta, key, "4"); }; };
  expect_edit_refused(text("llama.block_count"), "llama.block_count");
  expect_edit_refused(text("llama.attention.head_count_kv"), "head_count_kv");
  expect_edit_refused(text("llama.rope.freq_base"), "freq_base");
  expect_edit_refused([](GgufEdit& e) { gguf_set_val_f32(e.meta, "llama.embedding_length", 64); },
                      "embedding_length");
  expect_edit_refused([](GgufEdit& e) { gguf_set_val_u32(e.meta, "general.architecture", 1); },
                      "general.architecture");
  expect_edit_refused([](GgufEdit& e) { gguf_set_val_i32(e.meta, "llama.block_count", -2); }, "block_count");
  const std::vector<uint32_t> heads = {4, 2};
  expect_edit_refused(
      [&](GgufEdit& e) {
        gguf_set_arr_data(e.meta, "llama.attention.head_count", GGUF_TYPE_UINT32, heads.data(), heads.size());
      },
      "differs by layer");
  const std::vector<uint32_t> equal(3, 2);
  for (const char* key : {"llama.attention.head_count_kv", "llama.feed_forward_length"})
    expect_edit_refused(
        [&](GgufEdit& e) { gguf_set_arr_data(e.meta, key, GGUF_TYPE_UINT32, equal.data(), equal.size()); },
        "has 3 numbers for 2 layers");
}

// As some converters write them.
TEST(Unusual, ListsOfEqualNumbersAndAnotherVocabularySizeLoad) {
  const std::vector<uint32_t> heads(2, static_cast<uint32_t>(load(tiny())->hparams().n_head_kv));
  const auto lists = edit_gguf(tiny(), "lists.gguf", [&](GgufEdit& e) {
    gguf_set_arr_data(e.meta, "llama.attention.head_count_kv", GGUF_TYPE_UINT32, heads.data(), heads.size());
  });
  EXPECT_EQ(load(lists)->hparams().n_head_kv, static_cast<int>(heads[0]));
  const auto size = edit_gguf(minilong_path("q8_0"), "size.gguf",
                              [](GgufEdit& e) { gguf_set_val_u32(e.meta, "llama.vocab_size", 5000); });
  EXPECT_EQ(load(size)->hparams().n_vocab, 4096);
}

TEST(Hostile, MissingMetadata) {
  for (const char* key :
       {"general.architecture", "llama.block_count", "llama.embedding_length", "llama.attention.head_count",
        "llama.feed_forward_length", "llama.context_length", "llama.attention.layer_norm_rms_epsilon"})
    expect_edit_refused([&](GgufEdit& e) { gguf_remove_key(e.meta, key); }, key);
}

TEST(Hostile, SizesThatDisagree) {
  auto number = [](const char* key, uint32_t value) {
    return [=](GgufEdit& e) { gguf_set_val_u32(e.meta, key, value); };
  };
  expect_edit_refused(number("llama.attention.head_count", 3), "query heads");
  expect_edit_refused(number("llama.attention.head_count", 8), "attn_q");
  expect_edit_refused(number("llama.attention.head_count_kv", 4), "attn_k");
  expect_edit_refused(number("llama.attention.head_count_kv", 8), "head_count_kv");
  expect_edit_refused(number("llama.attention.head_count_kv", 0), "head_count_kv");
  expect_edit_refused(number("llama.attention.head_count", 0), "head_count");
  expect_edit_refused(number("llama.attention.key_length", 32), "K and V");
  expect_edit_refused(number("llama.attention.key_length", 0), "key_length");
  expect_edit_refused(number("llama.embedding_length", 128), "token_embd");
  expect_edit_refused(number("llama.feed_forward_length", 64), "ffn_gate");
  expect_edit_refused(number("llama.rope.dimension_count", 15), "dimension_count");
  expect_edit_refused(number("llama.rope.dimension_count", 18), "dimension_count");
  expect_edit_refused(number("llama.block_count", 3), "blk.2.");
  expect_edit_refused(number("llama.block_count", 0), "block_count");
  expect_edit_refused(number("llama.block_count", 4'000'000'000u), "block_count");
  expect_edit_refused(number("llama.block_count", 1'000'000), "block_count");
}

TEST(Hostile, Experts) {
  RandomModel m;
  m.family = "qwen3moe";
  m.n_expert = 4;
  auto refused = [&](const Edit& edit, std::string_view reason) { expect_edit_refused(edit, reason, m); };
  auto number = [](const char* key, uint32_t value) {
    return [=](GgufEdit& e) { gguf_set_val_u32(e.meta, key, value); };
  };
  constexpr auto kCount = "qwen3moe.expert_count";
  constexpr auto kUsed = "qwen3moe.expert_used_count";
  constexpr auto kWidth = "qwen3moe.expert_feed_forward_length";
  refused(number(kCount, 0), "expert_count is missing or 0");
  refused([](GgufEdit& e) { gguf_remove_key(e.meta, kCount); }, "expert_count is missing or 0");
  refused(number(kCount, 1), "expert_used_count is 2; it must be 1 to 1");
  refused(number(kCount, 3), "ffn_gate_inp");
  refused(number(kCount, 1u << 31), "expert_count is out of range");
  refused(number(kCount, INT32_MAX), "expert_count is 2147483647");
  refused([](GgufEdit& e) { gguf_remove_key(e.meta, kUsed); }, "expert_used_count is missing");
  refused(number(kUsed, 0), "expert_used_count is 0");
  refused(number(kUsed, 5), "expert_used_count is 5; it must be 1 to 4");
  refused(number(kUsed, 1u << 31), "expert_used_count is out of range");
  RandomModel many = m;
  many.n_expert = many.n_expert_used = 17;
  expect_refused(random_model_path("seventeen", many), "expert_used_count is 17; it must be 1 to 16");
  refused(number(kWidth, 0), "expert_feed_forward_length is 0");
  refused(number(kWidth, 65), "blk.0.ffn_gate_exps.weight has the shape [64, 64, 4]");
  refused(number("qwen3moe.expert_shared_feed_forward_length", 64), "blk.0.ffn_gate_shexp.weight is missing");
  refused(number("qwen3moe.leading_dense_block_count", 1), "blk.0.ffn_gate.weight is missing");
  refused(number("qwen3moe.leading_dense_block_count", 3), "leading_dense_block_count is 3");
  refused(number("qwen3moe.expert_group_count", 2), "groups");
  for (const char* name : {"blk.0.ffn_gate_inp.weight", "blk.1.ffn_gate_exps.weight",
                           "blk.0.ffn_up_exps.weight", "blk.1.ffn_down_exps.weight"}) {
    refused([&](GgufEdit& e) { e.remove_tensor(name); }, fmt::format("{} is missing", name));
    for (const std::vector<int64_t>& shape : {std::vector<int64_t>{64, 64}, {64, 64, 3}, {64, 64, 4, 2}})
      refused([&](GgufEdit& e) { e.replace_tensor(name, shape); }, fmt::format("{} has the shape", name));
  }
  refused([](GgufEdit& e) { e.replace_tensor("blk.0.exp_probs_b.bias", {4}); }, "exp_probs_b");
}

TEST(Hostile, MetadataOfOneFamily) {
  auto real = [](const char* key, float value) {
    return [=](GgufEdit& e) { gguf_set_val_f32(e.meta, key, value); };
  };
  auto number = [](const char* key, uint32_t value) {
    return [=](GgufEdit& e) { gguf_set_val_u32(e.meta, key, value); };
  };
  RandomModel granite;
  granite.family = "granite";
  expect_edit_refused(real("granite.logit_scale", 0), "logit_scale is 0", granite);
  expect_edit_refused([](GgufEdit& e) { gguf_remove_key(e.meta, "granite.logit_scale"); }, "logit_scale",
                      granite);
  expect_edit_refused(real("granite.residual_scale", NAN), "residual_scale", granite);
  RandomModel glm;
  glm.family = "glm4moe";
  glm.n_expert = 4;
  glm.extra_layers = 1;
  auto refused = [&](const Edit& edit, std::string_view reason) { expect_edit_refused(edit, reason, glm); };
  refused(number("glm4moe.nextn_predict_layers", 0), "blk.2.");
  refused(number("glm4moe.nextn_predict_layers", 3), "nextn_predict_layers is 3");
  refused(number("glm4moe.nextn_predict_layers", 1u << 31), "nextn_predict_layers is out of range");
  refused(number("glm4moe.expert_shared_count", 1), "blk.0.ffn_gate_shexp.weight is missing");
  refused(number("glm4moe.expert_shared_count", INT32_MAX), "expert_shared_count is 2147483647");
  refused(number("glm4moe.expert_gating_func", 3), "expert_gating_func 3");
  refused(real("glm4moe.expert_weights_scale", NAN), "expert_weights_scale");
  refused([](GgufEdit& e) { e.remove_tensor("blk.1.exp_probs_b.bias"); }, "exp_probs_b");
  RandomModel minimax;
  minimax.family = "minimax-m2";
  minimax.n_expert = 4;
  minimax.n_ff_expert = minimax.n_ff;
  for (const uint32_t gating : {0u, 3u, 4u})
    expect_edit_refused(number("minimax-m2.expert_gating_func", gating),
                        fmt::format("expert_gating_func {}", gating), minimax);
  expect_edit_refused([](GgufEdit& e) { gguf_remove_key(e.meta, "minimax-m2.expert_gating_func"); },
                      "expert_gating_func is missing", minimax);
  expect_edit_refused(number("minimax-m2.feed_forward_length", 64),
                      "blk.0.ffn_gate_exps.weight has the shape", minimax);
  expect_edit_refused([](GgufEdit& e) { e.replace_tensor("blk.0.attn_k_norm.weight", {16}); }, "attn_k_norm",
                      minimax);
  RandomModel seed;
  seed.family = "seed_oss";
  expect_edit_refused([](GgufEdit& e) { e.replace_tensor("blk.0.ffn_norm.weight", {64}); }, "ffn_norm", seed);
  RandomModel gemma;
  gemma.family = "gemma2";
  for (const std::string name : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    const auto key = "gemma2." + name;
    for (const float value : {0.0f, -0.0f, -30.0f})
      expect_edit_refused(real(key.c_str(), value), fmt::format("{} is {}; it must be above 0", key, value),
                          gemma);
    for (const float value : {NAN, INFINITY, -INFINITY})
      expect_edit_refused(real(key.c_str(), value), key + " is not a number", gemma);
    expect_edit_refused([&](GgufEdit& e) { gguf_set_val_str(e.meta, key.c_str(), "50"); }, key, gemma);
    const std::vector<float> two = {50, 30};
    expect_edit_refused(
        [&](GgufEdit& e) { gguf_set_arr_data(e.meta, key.c_str(), GGUF_TYPE_FLOAT32, two.data(), 2); }, key,
        gemma);
  }
  RandomModel phi3;
  phi3.family = "phi3";
  expect_edit_refused(
      [](GgufEdit& e) {
        e.replace_tensor("blk.0.attn_qkv.weight", {64, 127});
      },
      "attn_qkv", phi3);
  expect_edit_refused(
      [](GgufEdit& e) {
        e.replace_tensor("blk.1.ffn_up.weight", {64, 255});
      },
      "blk.1.ffn_gate.weight is missing", phi3);
  expect_edit_refused([](GgufEdit& e) { gguf_set_val_str(e.meta, "phi3.rope.scaling.type", "longrope"); },
                      "rope_factors_short.weight is missing", phi3);
}

TEST(Parts, OfAModelLoadByAnyOfThem) {
  RandomModel m;
  m.family = "qwen3moe";
  m.n_expert = 4;
  const auto whole = random_model_path("whole", m);
  const auto parts = split_gguf(whole, "parts", 3);
  const auto tokens = random_tokens(40, m.n_vocab);
  auto logits = [&](const std::string& path) {
    const auto model = load(path);
    EXPECT_EQ(model->path(), path == whole ? whole : parts[0]);
    Engine engine(*model, {.chunk = 16});
    Sequence sequence;
    const auto last = engine.prefill(sequence, tokens, *full_policy());
    return std::vector<float>(last.begin(), last.end());
  };
  const auto expected = logits(whole);
  for (const auto& path : parts) EXPECT_EQ(logits(path), expected) << path;
  // A vocabulary is read from them too.
  const auto text = split_gguf(minilong_path("q8_0"), "text", 2);
  EXPECT_EQ(load(text[1])->vocab().tokenize("Some text."),
            load(minilong_path("q8_0"))->vocab().tokenize("Some text."));
}

TEST(Parts, ThatAreMissingOrDoNotBelongTogetherAreRefused) {
  const auto parts = split_gguf(tiny(), "split", 3);
  const auto others = split_gguf(random_model_path("other", {.n_layer = 4}), "others", 3);
  const auto renamed = temp_path("renamed.gguf");
  std::filesystem::copy_file(parts[1], renamed);
  expect_refused(renamed, "one of 3 parts of a model, whose names must end in -00001-of-00003.gguf");
  auto with = [&](int number, const std::string& file, std::string_view reason) {
    const auto& path = parts[static_cast<size_t>(number) - 1];
    const auto kept = read_bytes(path);
    std::filesystem::remove(path);
    if (!file.empty()) std::filesystem::copy_file(file, path);
    for (size_t given = 0; given < parts.size(); ++given)
      if (parts[given] != path) {
        const auto error = load_error(parts[given]);
        EXPECT_NE(error.find(reason), std::string::npos) << error;
        EXPECT_NE(error.find("-of-00003.gguf: "), std::string::npos) << "does not name a part: " << error;
      }
    write_bytes(std::filesystem::path(path).filename().string(), kept);
    EXPECT_EQ(load_error(parts[0]), "");
  };
  with(1, "", "part 1 of 3 is missing");
  with(3, "", "part 3 of 3 is missing");
  with(2, others[1], "is in another part too; the parts are not of one model");
  with(2, parts[2], "split.no is 2, expected 1");
  with(2, tiny(), "split.no is missing");
  const auto edited = [&](const char* key, uint16_t value) {
    return edit_gguf(parts[1], "part.gguf", [=](GgufEdit& e) { gguf_set_val_u16(e.meta, key, value); });
  };
  with(2, edited("split.no", 3), "split.no is 3, expected 1");
  const auto second = read_bytes(parts[1]);
  with(2, write_bytes("cut.gguf", std::span(second).first(second.size() / 2)), "truncated");
  const auto text =
      edit_gguf(parts[1], "part.gguf", [](GgufEdit& e) { gguf_set_val_str(e.meta, "split.no", "1"); });
  with(2, text, "split.no has the type");
  for (const int32_t count : {-1, 5, INT32_MAX})
    with(1,
         edit_gguf(parts[0], "part.gguf",
                   [&](GgufEdit& e) { gguf_set_val_i32(e.meta, "split.tensors.count", count); }),
         "split.tensors.count");
}

TEST(Hostile, ModelsTheEngineDoesNotCompute) {
  expect_edit_refused([](GgufEdit& e) { gguf_set_val_str(e.meta, "general.architecture", "mamba"); },
                      "\"mamba\"");
  RandomModel qwen2;
  qwen2.family = "qwen2";
  expect_edit_refused(
      [](GgufEdit& e) {
        gguf_set_val_u32(e.meta, "qwen2.expert_count", 8);
        gguf_set_val_u32(e.meta, "qwen2.expert_used_count", 2);
      },
      "mixture", qwen2);
  expect_edit_refused([](GgufEdit& e) { gguf_set_val_u32(e.meta, "llama.attention.sliding_window", 512); },
                      "sliding");
  expect_edit_refused([](GgufEdit& e) { gguf_set_val_str(e.meta, "llama.rope.scaling.type", "longrope"); },
                      "rope_factors_short.weight is missing");
  expect_edit_refused([](GgufEdit& e) { gguf_set_val_str(e.meta, "llama.rope.scaling.type", "dynamic"); },
                      "dynamic");
  expect_edit_refused([](GgufEdit& e) { gguf_set_val_f32(e.meta, "llama.rope.freq_base", -1); }, "freq_base");
  expect_edit_refused([](GgufEdit& e) { gguf_set_val_f32(e.meta, "llama.rope.freq_base", NAN); },
                      "freq_base");
  expect_edit_refused(
      [](GgufEdit& e) { gguf_set_val_f32(e.meta, "llama.attention.layer_norm_rms_epsilon", 0); }, "epsilon");
}

TEST(SlidingWindow, IsCheckedAndMayBeMissing) {
  RandomModel m;
  m.family = "gemma3";
  m.window = 100;
  m.n_layer = 3;
  auto refused = [&](const char* key, int64_t value, std::string_view reason) {
    expect_edit_refused([=](GgufEdit& e) { gguf_set_val_i64(e.meta, key, value); }, reason, m);
  };
  refused("gemma3.attention.sliding_window", -1, "sliding_window is out of range");
  refused("gemma3.attention.sliding_window", int64_t{1} << 31, "sliding_window");
  refused("gemma3.attention.sliding_window_pattern", -2, "sliding_window_pattern is out of range");
  refused("gemma3.attention.sliding_window_pattern", int64_t{1} << 31, "sliding_window_pattern");
  const auto path = source_path(m);
  auto full_layers = [&](const char* key, uint32_t value) {
    const auto edited =
        edit_gguf(path, "windows.gguf", [&](GgufEdit& e) { gguf_set_val_u32(e.meta, key, value); });
    return load(edited)->hparams().full_layers();
  };
  EXPECT_EQ(full_layers("gemma3.attention.sliding_window", 0), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(full_layers("gemma3.attention.sliding_window", 4096),
            (std::vector<int>{0, 1, 2}));  // the context
  EXPECT_EQ(full_layers("gemma3.attention.sliding_window_pattern", 2), (std::vector<int>{1}));
  EXPECT_EQ(full_layers("gemma3.attention.sliding_window_pattern", 1), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(full_layers("gemma3.attention.sliding_window_pattern", 0), (std::vector<int>{}));
}

TEST(RecurrentLayers, AreChecked) {
  RandomModel m;
  m.family = "qwen35";
  m.n_layer = 4;
  auto refused = [&](const char* key, int64_t value, std::string_view reason) {
    expect_edit_refused([=](GgufEdit& e) { gguf_set_val_i64(e.meta, key, value); }, reason, m);
  };
  for (const char* key : {"qwen35.ssm.conv_kernel", "qwen35.ssm.state_size", "qwen35.ssm.group_count",
                          "qwen35.ssm.time_step_rank", "qwen35.ssm.inner_size"}) {
    expect_edit_refused([=](GgufEdit& e) { gguf_remove_key(e.meta, key); }, key, m);
    for (const int64_t value : {int64_t{-1}, int64_t{0}, int64_t{1} << 31, int64_t{INT32_MAX}})
      refused(key, value, key);
  }
  refused("qwen35.ssm.conv_kernel", 1, "conv_kernel is 1; it must be 2 to 64");
  refused("qwen35.ssm.conv_kernel", 5, "ssm_conv1d.weight has the shape [4, 64], expected [5, 64]");
  refused("qwen35.ssm.group_count", 3, "cannot share");
  refused("qwen35.ssm.state_size", 16, "inner_size is 32, expected 64");
  refused("qwen35.full_attention_interval", 5, "no layer attends");
  refused("qwen35.full_attention_interval", 0, "full_attention_interval is 0");
  refused("qwen35.full_attention_interval", -4, "full_attention_interval");
  refused("qwen35.full_attention_interval", int64_t{1} << 31, "full_attention_interval");
  refused("qwen35.full_attention_interval", 2, "blk.1.attn_qkv.weight has the shape");
  refused("qwen35.nextn_predict_layers", 4, "nextn_predict_layers");
  const char* sections = "qwen35.rope.dimension_sections";
  expect_edit_refused([=](GgufEdit& e) { gguf_remove_key(e.meta, sections); }, sections, m);
  for (const std::vector<int32_t>& values :
       {std::vector<int32_t>{}, {8}, {2, 3, 3, 0}, {3, 3, 1, 0}, {-1, 3, 2, 0}, {4, 0, 4}})
    expect_edit_refused([&](GgufEdit& e) { set_ints(e, sections, values); }, sections, m);
  expect_edit_refused([=](GgufEdit& e) { gguf_set_val_str(e.meta, sections, "3,3,2"); }, sections, m);
  const char* layers = "qwen35.attention.recurrent_layers";
  expect_edit_refused([&](GgufEdit& e) { set_ints(e, layers, {1, 1, 1, 1}); }, "no layer attends", m);
  expect_edit_refused([&](GgufEdit& e) { set_ints(e, layers, {1, 1, 1}); }, "has 3 numbers for 4 layers", m);
  expect_edit_refused(
      [&](GgufEdit& e) {
        set_ints(e, layers, {1, 1, 0, 0});
      },
      "blk.2.attn_qkv.weight has the shape", m);
  expect_edit_refused([=](GgufEdit& e) { gguf_set_val_u32(e.meta, layers, 1); }, layers, m);
  const char* texts[] = {"a", "b", "c", "d"};
  expect_edit_refused([&](GgufEdit& e) { gguf_set_arr_str(e.meta, layers, texts, 4); }, layers, m);
  for (const char* name : {"attn_qkv.weight", "attn_gate.weight", "ssm_conv1d.weight", "ssm_dt.bias", "ssm_a",
                           "ssm_beta.weight", "ssm_alpha.weight", "ssm_norm.weight", "ssm_out.weight"})
    expect_edit_refused([&](GgufEdit& e) { e.remove_tensor("blk.0." + std::string(name)); }, name, m);
  expect_edit_refused([](GgufEdit& e) { e.remove_tensor("blk.3.attn_q_norm.weight"); }, "attn_q_norm", m);
  expect_edit_refused([](GgufEdit& e) { e.replace_tensor("blk.0.ssm_dt.weight", {4}); }, "ssm_dt.weight", m);
  // The list says what the interval says otherwise.
  const auto path = edit_gguf(source_path(m), "listed.gguf", [&](GgufEdit& e) {
    gguf_remove_key(e.meta, "qwen35.full_attention_interval");
    set_ints(e, layers, {1, 1, 1, 0});
  });
  EXPECT_EQ(load(path)->hparams().full_layers(), (std::vector<int>{3}));
}

TEST(Hostile, LayersThatDiffer) {
  RandomModel m;
  m.family = "gemma4";
  m.window = 100;
  m.n_layer = 4;
  m.d_head_window = 32;
  m.n_head_kv_window = 4;
  auto refused = [&](const Edit& edit, std::string_view reason) { expect_edit_refused(edit, reason, m); };
  auto number = [](const char* key, uint32_t value) {
    return [=](GgufEdit& e) { gguf_set_val_u32(e.meta, key, value); };
  };
  auto list = [](const char* key, const std::vector<int32_t>& values) {
    return [=](GgufEdit& e) { set_ints(e, key, values); };
  };
  constexpr auto kKv = "gemma4.attention.head_count_kv";
  constexpr auto kPattern = "gemma4.attention.sliding_window_pattern";
  EXPECT_EQ(load_error(source_path(m)), "");
  for (const auto* key : {kKv, kPattern}) {
    refused(list(key, {1, 1, 1}), "has 3 numbers for 4 layers");
    refused(list(key, {1, 1, 1, 1, 1}), "has 5 numbers for 4 layers");
    refused(list(key, {}), fmt::format("{} has 0 numbers", key));
    refused(list(key, {4, 4, -1, 4}), fmt::format("{} is out of range: -1", key));
    refused([=](GgufEdit& e) { gguf_remove_key(e.meta, key); }, fmt::format("{} is missing", key));
    const std::vector<float> reals(4, 1.0f);
    refused([&](GgufEdit& e) { gguf_set_arr_data(e.meta, key, GGUF_TYPE_FLOAT32, reals.data(), 4); }, key);
    std::vector<const char*> texts(4, "4");
    refused([&](GgufEdit& e) { gguf_set_arr_str(e.meta, key, texts.data(), 4); }, key);
  }
  refused(list(kKv, {4, 4, 0, 4}), "head_count_kv is 0");
  refused(list(kKv, {4, 4, 8, 4}), "head_count_kv is 8");
  refused(list(kKv, {4, 3, 2, 4}), "4 query heads cannot share 3 KV heads");
  refused(list(kKv, {4, 2, 2, 4}), "differs among layers of one kind");
  refused(list(kKv, {4, 4, 1, 4}), "blk.2.attn_k.weight has the shape");
  refused(number(kKv, 4), "blk.2.attn_k.weight has the shape");
  refused(list(kPattern, {1, 1, 1, 1}), "differs among layers of one kind");
  refused(list(kPattern, {0, 0, 0, 0}), "differs among layers of one kind");
  refused(number("gemma4.attention.sliding_window", 0), "sliding_window is 0");
  refused([](GgufEdit& e) { gguf_remove_key(e.meta, "gemma4.attention.sliding_window"); }, "sliding_window");
  refused(number("gemma4.attention.key_length_swa", 0), "key_length_swa is 0");
  refused(number("gemma4.attention.key_length_swa", 2048), "key_length_swa is 2048");
  refused(number("gemma4.attention.key_length_swa", 16), "K and V heads of different sizes");
  for (const uint32_t rotated : {0u, 1u, 15u, 34u})
    refused(number("gemma4.rope.dimension_count_swa", rotated), "dimension_count_swa is");
  refused([](GgufEdit& e) { e.remove_tensor("blk.0.attn_k.weight"); }, "blk.0.attn_k.weight is missing");
  refused([](GgufEdit& e) { e.replace_tensor("blk.1.layer_output_scale.weight", {2}); },
          "layer_output_scale");
  refused([](GgufEdit& e) { e.replace_tensor("blk.0.attn_v.weight", {64, 32}); }, "blk.0.attn_v.weight");
  refused([](GgufEdit& e) { gguf_set_val_f32(e.meta, "gemma4.final_logit_softcapping", -1); },
          "final_logit_softcapping is -1");
  // Other families have one size.
  expect_edit_refused(list("llama.attention.head_count_kv", {2, 1}), "differs by layer");
}

TEST(Hostile, EmbeddingsForEachLayer) {
  RandomModel m;
  m.family = "gemma4";
  m.window = 100;
  m.n_layer = 4;
  m.n_ff_above = 192;
  m.n_embd_layer = 32;
  m.seed = 2;
  auto refused = [&](const Edit& edit, std::string_view reason) { expect_edit_refused(edit, reason, m); };
  constexpr auto kWidth = "gemma4.embedding_length_per_layer_input";
  constexpr auto kForward = "gemma4.feed_forward_length";
  EXPECT_EQ(load_error(source_path(m)), "");
  auto width = [&](uint32_t value) { return [=](GgufEdit& e) { gguf_set_val_u32(e.meta, kWidth, value); }; };
  refused(width(0), "is unknown in this model family");
  refused(width(16), "per_layer_token_embd.weight has the shape [128, 256], expected [64, 256]");
  refused(width(65537), "embedding_length_per_layer_input is 65537");
  refused(width(0xffffffff), "embedding_length_per_layer_input is out of range");
  for (const char* name :
       {"per_layer_token_embd.weight", "per_layer_model_proj.weight", "per_layer_proj_norm.weight",
        "blk.3.inp_gate.weight", "blk.0.proj.weight", "blk.0.post_norm.weight"}) {
    refused([=](GgufEdit& e) { e.remove_tensor(name); }, fmt::format("tensor {} is missing", name));
    refused([=](GgufEdit& e) { e.replace_tensor(name, {31, 7}); }, fmt::format("{} has the shape", name));
  }
  auto list = [](const std::vector<int32_t>& values) {
    return [=](GgufEdit& e) { set_ints(e, kForward, values); };
  };
  refused(list({128, 128, 192}), "feed_forward_length has 3 numbers for 4 layers");
  refused(list({}), "feed_forward_length has 0 numbers for 4 layers");
  refused(list({128, 128, 0, 192}), "feed_forward_length is 0");
  refused(list({128, -1, 192, 192}), "feed_forward_length is out of range");
  refused(list({128, 192, 192, 192}), "blk.1.ffn_gate.weight has the shape");
  // Rows of a quantized table end where blocks do, a layer's part need not.
  refused(
      [=](GgufEdit& e) {
        gguf_set_val_u32(e.meta, kWidth, 24);
        e.replace_tensor("per_layer_token_embd.weight", {96, 256}, GGML_TYPE_Q8_0);
      },
      "embeddings of 24 numbers for each layer of type q8_0, whose blocks have 32");
}

TEST(Hostile, SharedKeysAndValues) {
  RandomModel m;
  m.family = "gemma4";
  m.window = 100;
  m.n_layer = 9;
  m.shared_layers = 3;
  m.seed = 3;
  auto refused = [&](const Edit& edit, std::string_view reason) { expect_edit_refused(edit, reason, m); };
  constexpr auto kShared = "gemma4.attention.shared_kv_layers";
  constexpr auto kPattern = "gemma4.attention.sliding_window_pattern";
  EXPECT_EQ(load_error(source_path(m)), "");
  auto shared = [=](uint32_t layers) {
    return [=](GgufEdit& e) { gguf_set_val_u32(e.meta, kShared, layers); };
  };
  refused(shared(0), "blk.6.attn_k.weight is missing");
  refused(shared(2), "would read K and V of a layer of another kind");
  refused(shared(8), "would read K and V of a layer of another kind");
  refused(shared(9), "shared_kv_layers is 9");
  refused(shared(1000), "shared_kv_layers is 1000");
  refused(shared(0x80000000), "shared_kv_layers is out of range");
  refused([=](GgufEdit& e) { gguf_set_val_str(e.meta, kShared, "3"); }, "shared_kv_layers");
  refused(
      [=](GgufEdit& e) {
        set_ints(e, kPattern, {1, 1, 0, 1, 0, 1, 1, 1, 0});
      },
      "would read K and V of a layer of another kind");
  refused([](GgufEdit& e) { e.remove_tensor("blk.5.attn_k_norm.weight"); },
          "blk.5.attn_k_norm.weight is missing");
  refused([](GgufEdit& e) { e.remove_tensor("blk.8.attn_q_norm.weight"); },
          "blk.8.attn_q_norm.weight is missing");
  refused([](GgufEdit& e) { e.replace_tensor("blk.8.attn_k_other.weight", {8}); }, "attn_k_other");
  // What would make K and V that nothing reads.
  const auto path = edit_gguf(source_path(m), "unread.gguf", [](GgufEdit& e) {
    for (const char* name : {"attn_k.weight", "attn_v.weight", "attn_k_norm.weight"})
      e.replace_tensor("blk.8." + std::string(name), {16});
  });
  EXPECT_EQ(load_error(path), "");
}

TEST(Hostile, ExpertsBesideADenseFeedForward) {
  RandomModel m;
  m.family = "gemma4";
  m.window = 100;
  m.n_layer = 3;
  m.n_expert = 4;
  m.n_ff_expert = 48;
  m.seed = 4;
  auto refused = [&](const Edit& edit, std::string_view reason) { expect_edit_refused(edit, reason, m); };
  EXPECT_EQ(load_error(source_path(m)), "");
  for (const char* name : {"ffn_gate_inp.weight", "ffn_gate_inp.scale", "ffn_down_exps.weight",
                           "pre_ffw_norm_2.weight", "post_ffw_norm_1.weight", "post_ffw_norm_2.weight",
                           "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"}) {
    const auto tensor = "blk.2." + std::string(name);
    refused([=](GgufEdit& e) { e.remove_tensor(tensor); }, fmt::format("tensor {} is missing", tensor));
    refused([=](GgufEdit& e) { e.replace_tensor(tensor, {5, 7}); }, fmt::format("{} has the shape", tensor));
  }
  refused([](GgufEdit& e) { e.remove_tensor("blk.1.ffn_gate_up_exps.weight"); },
          "blk.1.ffn_gate_exps.weight is missing");
  refused(
      [](GgufEdit& e) {
        e.replace_tensor("blk.1.ffn_gate_up_exps.weight", {64, 48, 4});
      },
      "blk.1.ffn_gate_up_exps.weight has the shape");
  refused([](GgufEdit& e) { e.replace_tensor("blk.1.ffn_down_exps.scale", {3}); },
          "blk.1.ffn_down_exps.scale has the shape");
  refused([](GgufEdit& e) { gguf_set_val_u32(e.meta, "gemma4.expert_count", 5); }, "has the shape");
  refused([](GgufEdit& e) { gguf_set_val_u32(e.meta, "gemma4.expert_count", 0); }, "is unknown");
  refused([](GgufEdit& e) { gguf_set_val_u32(e.meta, "gemma4.expert_used_count", 5); },
          "expert_used_count is 5");
  // Gate and up apart, and no scale of what experts give.
  const auto path = edit_gguf(source_path(m), "apart.gguf", [](GgufEdit& e) {
    e.remove_tensor("blk.1.ffn_gate_up_exps.weight");
    e.remove_tensor("blk.1.ffn_down_exps.scale");
    e.replace_tensor("blk.1.ffn_gate_exps.weight", {64, 48, 4});
    e.replace_tensor("blk.1.ffn_up_exps.weight", {64, 48, 4});
  });
  EXPECT_EQ(load_error(path), "");
}

// Tensors the graph would leave out would change what the model says without a word.
TEST(Hostile, TensorsTheGraphDoesNotUse) {
  for (const char* name :
       {"blk.0.ffn_down.bias", "blk.0.attn_q_norm.weight", "blk.0.attn_sub_norm.weight", "output.bias"})
    expect_edit_refused([&](GgufEdit& e) { e.replace_tensor(name, {64}); }, name);
}

TEST(Hostile, DamagedVocabularies) {
  const auto source = minilong_path("q8_0");
  // Each either loads without a vocabulary that harms, or is refused.
  auto survive = [&](const Edit& edit) { load_error(edit_gguf(source, "vocab.gguf", edit)); };
  const std::vector<int32_t> few = {1, 1, 1};
  const std::vector<float> scores = {0.5f};
  const char* three[] = {"a", "b", "c"};
  for (const char* key :
       {"tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type",
        "tokenizer.ggml.scores", "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template",
        "tokenizer.ggml.eos_token_id", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token"}) {
    SCOPED_TRACE(key);
    survive([&](GgufEdit& e) { gguf_remove_key(e.meta, key); });
    survive([&](GgufEdit& e) { gguf_set_val_u32(e.meta, key, 4'000'000'000u); });
    survive([&](GgufEdit& e) { gguf_set_val_str(e.meta, key, "text"); });
    survive([&](GgufEdit& e) { gguf_set_val_str(e.meta, key, ""); });
    survive([&](GgufEdit& e) { gguf_set_arr_str(e.meta, key, three, 3); });
    survive([&](GgufEdit& e) { gguf_set_arr_data(e.meta, key, GGUF_TYPE_INT32, few.data(), few.size()); });
    survive([&](GgufEdit& e) {
      gguf_set_arr_data(e.meta, key, GGUF_TYPE_FLOAT32, scores.data(), scores.size());
    });
    survive([&](GgufEdit& e) { gguf_set_arr_data(e.meta, key, GGUF_TYPE_INT32, few.data(), 0); });
  }
}

/// The tiny model with one byte of the description of `tensor` changed: `at` bytes past the end of its name,
/// where the number of dimensions (4 bytes), the sizes (8 each) and the type (4) stand.
std::string patch_tensor(const std::string& tensor, size_t at, uint8_t value) {
  auto bytes = read_bytes(tiny());
  const auto found = std::search(bytes.begin(), bytes.end(), tensor.begin(), tensor.end());
  bytes.at(static_cast<size_t>(found - bytes.begin()) + tensor.size() + at) = value;
  return write_bytes("patched.gguf", bytes);
}

TEST(Hostile, SizesPastTheLargestNumberGgmlTakes) {
  for (uint8_t high : {0x40, 0x7f, 0x80, 0xff}) {
    expect_refused(patch_tensor("blk.1.ffn_down.weight", 4 + 7, high), "");
    expect_refused(patch_tensor("blk.1.ffn_down.weight", 12 + 7, high), "");
  }
  // No tensor the engine asks for, but libllama reads it too.
  const auto extra =
      edit_gguf(tiny(), "extra.gguf", [](GgufEdit& e) { e.replace_tensor("rope_freqs.weight", {8}); });
  auto bytes = read_bytes(extra);
  const std::string name = "rope_freqs.weight";
  const auto found = std::search(bytes.begin(), bytes.end(), name.begin(), name.end());
  bytes.at(static_cast<size_t>(found - bytes.begin()) + name.size() + 4 + 7) = 0x40;
  expect_refused(write_bytes("extra.gguf", bytes), "");
}

TEST(Hostile, TypesThatHoldNoWeights) {
  for (auto type :
       {GGML_TYPE_Q8_1, GGML_TYPE_Q8_K, GGML_TYPE_I8, GGML_TYPE_I32, GGML_TYPE_I64, GGML_TYPE_F64}) {
    SCOPED_TRACE(ggml_type_name(type));
    expect_refused(patch_tensor("blk.1.ffn_down.weight", 4 + 16, static_cast<uint8_t>(type)), "");
    expect_refused(patch_tensor("token_embd.weight", 4 + 16, static_cast<uint8_t>(type)), "");
  }
}

/// MiniLong with other tokens.
std::string edit_tokens(std::string_view name, const std::function<void(std::vector<std::string>&)>& edit) {
  return edit_gguf(minilong_path("q8_0"), name, [&](GgufEdit& e) {
    const char* key = "tokenizer.ggml.tokens";
    const int64_t id = gguf_find_key(e.meta, key);
    std::vector<std::string> tokens;
    for (size_t i = 0; i < gguf_get_arr_n(e.meta, id); ++i)
      tokens.emplace_back(gguf_get_arr_str(e.meta, id, i));
    edit(tokens);
    std::vector<const char*> pointers;
    for (const auto& token : tokens) pointers.push_back(token.c_str());
    gguf_set_arr_str(e.meta, key, pointers.data(), pointers.size());
  });
}

TEST(Hostile, RepeatedTokens) {
  expect_refused(edit_tokens("repeated.gguf", [](auto& tokens) { tokens[700] = tokens[699]; }), "token 700");
}

// libllama calls them so, and aborts where another token is called so too.
TEST(Hostile, AnEmptyTokenAndAnotherOfItsName) {
  EXPECT_EQ(load_error(edit_tokens("empty_token.gguf", [](auto& tokens) { tokens[700] = ""; })), "");
  expect_refused(edit_tokens("empty_token.gguf",
                             [](auto& tokens) {
                               tokens[700] = "";
                               tokens[701] = "[EMPTY_700]";
                             }),
                 "token 701");
}

// libllama makes up as many tokens as a file without a vocabulary claims to have.
TEST(Hostile, ClaimedVocabularySizeIsNotAllocated) {
  const auto path = edit_gguf(tiny(), "claim.gguf", [](GgufEdit& e) {
    gguf_set_val_u32(e.meta, "llama.vocab_size", 4'000'000'000u);
  });
  largest_allocation = 0;
  load_error(path);
  EXPECT_LT(largest_allocation, size_t{256} << 20);
}

/// A small model with a vocabulary of libllama's kind `tokenizer`: tokens "t0", "t1", ...
std::string path_with_vocabulary(const char* tokenizer) {
  RandomModel model;
  model.n_vocab = 64;
  return edit_gguf(random_model_path("vocabulary_source", model), "vocabulary.gguf", [&](GgufEdit& e) {
    std::vector<std::string> texts;
    std::vector<const char*> tokens;
    for (int i = 0; i < model.n_vocab; ++i) texts.push_back(fmt::format("t{}", i));
    for (const auto& text : texts) tokens.push_back(text.c_str());
    const std::vector<int32_t> types(tokens.size(), 1);
    gguf_set_val_str(e.meta, "tokenizer.ggml.model", tokenizer);
    gguf_set_arr_str(e.meta, "tokenizer.ggml.tokens", tokens.data(), tokens.size());
    gguf_set_arr_data(e.meta, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
  });
}

// libllama puts token 101 before texts, and aborts where there is none.
TEST(Hostile, AVocabularyWithoutTheTokenThatTextsBeginWith) {
  const auto model = load(path_with_vocabulary("bert"));
  EXPECT_EQ(model->find_vocab(), nullptr);
  EXPECT_THROW(model->vocab(), Error);
}

TEST(Hostile, ATextThatTheVocabularyHasNoTokensFor) {
  EXPECT_THROW(load(path_with_vocabulary("llama"))->vocab().tokenize("é"), Error);
}

// libllama's tokenizer for it never ends on "t", with which tokens begin and which is none.
TEST(Hostile, TheTokenizerOfRwkv) {
  const auto model = load(path_with_vocabulary("rwkv"));
  EXPECT_EQ(model->find_vocab(), nullptr);
  EXPECT_THROW(model->vocab(), Error);
}

/// Loads a damaged file and, where it loads, computes with it.
void use(const std::string& path) {
  try {
    const auto model = load(path);
    if (const auto* vocab = model->find_vocab()) {
      const auto tokens = vocab->tokenize("Some text, to see that the vocabulary works. <|im_end|>");
      vocab->text(tokens, true);
    }
    Engine engine(*model);
    Sequence sequence;
    engine.prefill(sequence, std::vector<Token>{0, 0, 0}, *full_policy());
    engine.decode(sequence, 0);
  } catch (const Error&) {
  }
}

void mutate(const std::string& source, int count, uint64_t seed) {
  auto bytes = read_bytes(source);
  const gguf_context_ptr gguf(gguf_init_from_file(source.c_str(), {true, nullptr}));
  const size_t meta = gguf_get_meta_size(gguf.get());
  std::mt19937_64 random(seed);
  const bool verbose = std::getenv("WINDOWKV_TEST_VERBOSE") != nullptr;
  for (int i = 0; i < count; ++i) {
    auto mutant = bytes;
    std::string what;
    for (auto flips = 1 + random() % 3; flips > 0; --flips) {
      const size_t at = random() % meta;
      // Bit flips, and the values that sizes and types dislike most.
      const uint8_t value = random() % 2 == 0 ? static_cast<uint8_t>(mutant[at] ^ (1u << (random() % 8)))
                                              : std::array<uint8_t, 4>{0, 1, 0x7f, 0xff}[random() % 4];
      what += fmt::format(" [{}] {:02x}→{:02x}", at, mutant[at], value);
      mutant[at] = value;
    }
    if (verbose) fmt::print("mutant {}:{}\n", i, what), std::fflush(stdout);
    largest_allocation = 0;
    use(write_bytes("mutant.gguf", mutant));
    EXPECT_LT(largest_allocation, size_t{256} << 20) << "mutant" << what;
  }
}

TEST(Mutants, TinyModelLoadsOrIsRefused) {
  mutate(tiny(), 300, 1);
}

TEST(Mutants, TinyQwen2LoadsOrIsRefused) {
  RandomModel m;
  m.family = "qwen2";
  m.tied = true;
  m.type = GGML_TYPE_Q8_0;
  mutate(random_model_path("tiny_qwen2", m), 150, 2);
}

TEST(Mutants, TinyRecurrentModelLoadsOrIsRefused) {
  RandomModel m;
  m.family = "qwen35moe";
  m.n_layer = 4;
  m.n_expert = 4;
  m.n_ff_shared = 32;
  mutate(random_model_path("tiny_recurrent", m), 150, 4);
}

TEST(Mutants, TinyModelWithSharedLayersLoadsOrIsRefused) {
  RandomModel m;
  m.family = "gemma4";
  m.n_layer = 6;
  m.window = 40;
  m.shared_layers = 3;
  m.n_embd_layer = 24;
  m.n_ff_above = 192;
  m.n_expert = 4;
  mutate(random_model_path("tiny_shared", m), 150, 5);
}

/// MiniLong without its weights' bulk would not load; its metadata is mostly vocabulary.
TEST(Mutants, MiniLongVocabularyLoadsOrIsRefused) {
  mutate(minilong_path("q8_0"), 40, 3);
}

}  // namespace
}  // namespace windowkv::test
