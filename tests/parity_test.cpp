// The engine with a full cache against llama.cpp's own on the same file.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <iterator>

#include "support/files.h"
#include "support/gguf_edit.h"
#include "support/models.h"
#include "support/recorded.h"
#include "support/reference.h"
#include "windowkv/engine.h"

namespace windowkv::test {
namespace {

constexpr int kChunk = 64;

/// With the kernels the reference has.
std::unique_ptr<Model> load_plain(const std::string& path) {
  return load(path, 1, /*blas=*/false);
}

Logits prefill_logits(const Model& model, std::span<const Token> tokens, int chunk) {
  Engine engine(model, {.chunk = chunk});
  Sequence sequence;
  Logits out;
  PrefillOptions options;
  options.all_logits = [&](int64_t position, std::span<const float> logits) {
    EXPECT_EQ(position, static_cast<int64_t>(out.size()));
    out.emplace_back(logits.begin(), logits.end());
  };
  const auto last = engine.prefill(sequence, tokens, *full_policy(), options);
  EXPECT_TRUE(std::equal(last.begin(), last.end(), out.back().begin()));
  return out;
}

/// The first `known` tokens at once, the rest one by one; logits from position known − 1 on.
Logits decode_logits(const Model& model, std::span<const Token> tokens, size_t known,
                     const Policy& policy = *full_policy()) {
  Engine engine(model, {.chunk = kChunk});
  Sequence sequence;
  const auto first = engine.prefill(sequence, tokens.first(known), policy);
  Logits out = {{first.begin(), first.end()}};
  std::ranges::move(decoded_logits(engine, sequence, tokens.subspan(known)), std::back_inserter(out));
  return out;
}

void report(const std::string& what, const Difference& d) {
  fmt::print("  {:<24} top-1 {:6.2f} %   max relative error {:.2e}   mean {:.2e}\n", what, 100 * d.top1,
             d.worst, d.mean);
}

class MiniLongParity : public testing::TestWithParam<const char*> {};

/// The largest relative error allowed: as much as prefill through BLAS may differ from ggml's kernels
/// (blas_test.cpp), for the same reason. Kernels of ours and other devices' multiply in float32 or with 16
/// bits what the reference rounds to eight where weights are quantized.
struct Bound {
  double error;
  /// Tokens choose experts, and a rounding may choose others, in libllama too: a tenth of the positions may
  /// be further apart.
  bool routed = false;
  double largest(const Difference& d) const { return routed ? d.most : d.worst; }
  double typical(const Difference& d) const { return routed ? d.most : d.mean; }
};

/// Logits of ours beside libllama's with flash attention or without. On the CPU ours attend by kernels of
/// their own, which round less than libllama's flash attention: what they give is as near to libllama without
/// it as libllama with it is.
void expect_near(const std::string& what, const Logits& ours, const std::function<Logits(bool flash)>& theirs,
                 double top1, Bound bound) {
  const auto fused = theirs(true);
  if (test_device() != "cpu") {
    const auto d = compare(ours, fused);
    report(what, d);
    EXPECT_GE(d.top1, top1);
    EXPECT_LT(bound.largest(d), bound.error);
    return;
  }
  const auto exact = theirs(false);
  const auto d = compare(ours, exact);
  const auto flash = compare(fused, exact);
  report(what, d);
  report(what + ", libllama's", flash);
  EXPECT_LE(bound.typical(d), 1.5 * bound.typical(flash) + 1e-4);
  EXPECT_GE(d.top1, std::min(top1, flash.top1) - 0.05);
  EXPECT_LT(bound.largest(d), bound.error);
}

/// All logits of a prompt, in such chunks.
void expect_prefill_parity(const std::string& what, const std::string& path, std::span<const Token> tokens,
                           int chunk, double top1, Bound bound) {
  Reference reference(path);
  expect_near(
      what, prefill_logits(*load_plain(path), tokens, chunk),
      [&](bool flash) { return reference.all_logits(tokens, chunk, tokens.size(), flash); }, top1, bound);
}

/// Both ways through the engine, each beside a reference that takes the tokens in the same batches.
void expect_parity(const std::string& what, const std::string& path, std::span<const Token> tokens,
                   double top1, Bound bound) {
  expect_prefill_parity(what + " prefill", path, tokens, kChunk, top1, bound);
  const size_t known = tokens.size() * 2 / 3;
  Reference reference(path);
  expect_near(
      what + " decode", decode_logits(*load_plain(path), tokens, known),
      [&](bool flash) {
        const auto all = reference.all_logits(tokens, kChunk, known, flash);
        return Logits{all.begin() + static_cast<ptrdiff_t>(known) - 1, all.end()};
      },
      top1, bound);
}

/// A prompt of which the first tokens and the last ones are kept, `budget` in all, beside libllama without
/// the others.
void expect_dropped_parity(const std::string& what, const std::string& path, std::span<const Token> tokens,
                           int64_t known, int64_t budget, Bound bound) {
  constexpr int64_t kSinks = 4;  // of streaming-llm
  std::vector<int32_t> kept;
  for (int64_t i = 0; i < known; ++i)
    if (i < kSinks || i >= known - (budget - kSinks)) kept.push_back(static_cast<int32_t>(i));
  const auto policy = make_policy("streaming-llm", {Budget::tokens(budget), {}});
  const auto ours = decode_logits(*load_plain(path), tokens, static_cast<size_t>(known), *policy);
  const auto all = Reference(path).all_logits(tokens, kChunk, static_cast<size_t>(known), false, kept);
  const auto d = compare(ours, {all.begin() + known - 1, all.end()});
  report(what + " dropped", d);
  EXPECT_GE(d.top1, 0.9);
  EXPECT_LT(bound.largest(d), bound.error);
}

TEST_P(MiniLongParity, RealTextGivesTheSameTopTokens) {
  const auto path = minilong_path(GetParam());
  auto tokens = load_plain(path)->vocab().tokenize(data_text("sherlock.txt"));
  ASSERT_GE(tokens.size(), 1000u);
  tokens.resize(1000);
  expect_parity(GetParam(), path, tokens, 0.99,
                GetParam() == std::string_view("f16") ? Bound{0.02} : Bound{0.06});
}

// Past what other tests take: a dozen chunks, and many more keys than queries.
TEST(LongPrompt, OfSixThousandTokensGivesTheLogitsOfLibllama) {
  RandomModel m;
  m.type = GGML_TYPE_F32;
  m.n_layer = 3;
  m.n_ctx = 8192;
  const auto path = random_model_path("long_prompt", m);
  const auto tokens = random_tokens(6000, m.n_vocab);
  expect_prefill_parity("6,000 tokens", path, tokens, 512, 0.99, Bound{1e-2});
}

// As long as a window of a real size is worth, and 12 % of it.
TEST(LongPrompt, WithSlidingWindowsGivesTheLogitsOfLibllama) {
  RandomModel m;
  m.family = "gemma3";
  m.type = GGML_TYPE_F32;
  m.n_layer = 6;
  m.n_ctx = 8192;
  m.window = 400;
  const auto path = random_model_path("long_sliding", m);
  const auto tokens = random_tokens(4096 + 20, m.n_vocab);
  expect_prefill_parity("4,096 tokens", path, tokens, 512, 0.99, Bound{1e-2});
  expect_dropped_parity("4,096 tokens", path, tokens, 4096, 4096 * 12 / 100, Bound{1e-2});
}

// The last layers read what those below them have, of a window and of all tokens.
TEST(LongPrompt, WithSharedKeysAndValuesGivesTheLogitsOfLibllama) {
  RandomModel m;
  m.family = "gemma4";
  m.type = GGML_TYPE_F32;
  m.n_layer = 9;
  m.shared_layers = 3;
  m.n_embd_layer = 24;
  m.n_ctx = 8192;
  m.window = 400;
  m.n_head_kv = 1;
  m.n_head_kv_window = 2;
  const auto path = random_model_path("long_shared", m);
  const auto tokens = random_tokens(4096 + 20, m.n_vocab);
  expect_prefill_parity("4,096 tokens", path, tokens, 512, 0.99, Bound{1e-2});
  expect_dropped_parity("4,096 tokens", path, tokens, 4096, 4096 * 12 / 100, Bound{1e-2});
}

// Three of four layers keep a state that has passed sixty-four chunks.
TEST(LongPrompt, WithRecurrentLayersGivesTheLogitsOfLibllama) {
  RandomModel m;
  m.family = "qwen35";
  m.type = GGML_TYPE_F32;
  m.n_layer = 8;
  m.n_ctx = 8192;
  const auto path = random_model_path("long_recurrent", m);
  const auto tokens = random_tokens(4096 + 20, m.n_vocab);
  expect_prefill_parity("4,096 tokens", path, tokens, kChunk, 0.99, Bound{1e-2});
  expect_dropped_parity("4,096 tokens", path, tokens, 4096, 4096 * 12 / 100, Bound{1e-2});
}

INSTANTIATE_TEST_SUITE_P(Types, MiniLongParity, testing::Values("f16", "q8_0"),
                         [](const auto& test) { return test.param; });

TEST(SmolLM2Parity, ChatGivesTheSameTopTokens) {
  const auto path = smollm2_path();
  if (path.empty()) GTEST_SKIP() << kNoSmolLM2;
  const auto model = load_plain(path);
  auto tokens = model->vocab().tokenize(
      model->vocab().apply_chat_template({{"user", data_text("sherlock.txt").substr(0, 1000)}}));
  tokens.resize(150);
  expect_parity("smollm2", path, tokens, 0.97, {0.2});
}

// A real file of one's own: WINDOWKV_PARITY_MODEL=model.gguf.
TEST(OwnModelParity, TextGivesTheSameTopTokens) {
  const char* path = std::getenv("WINDOWKV_PARITY_MODEL");
  if (path == nullptr) GTEST_SKIP() << "WINDOWKV_PARITY_MODEL names no model";
  auto tokens = load_plain(path)->vocab().tokenize(data_text("sherlock.txt"));
  tokens.resize(std::min<size_t>(tokens.size(), 900));
  expect_parity("own model", path, tokens, 0.97, {0.2});
}

struct Case {
  std::string name;
  RandomModel model;
  Bound bound;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

std::vector<Case> cases() {
  // With equal batches and kernels the logits are the same to the bit or nearly; the bounds leave room for
  // machines where the engines end up with different kernels, whose roundings quantized activations enlarge.
  constexpr Bound kF32 = {1e-2};
  constexpr Bound kF16 = {5e-2};
  constexpr Bound kQuantized = {1e-1};
  constexpr Bound kRouted = {1e-2, true};
  std::vector<Case> out;
  auto add = [&](const std::string& name, Bound bound, auto&& change) {
    RandomModel m;
    m.seed = out.size() + 1;
    m.type = GGML_TYPE_F32;
    change(m);
    out.push_back({name, m, bound});
  };
  auto wide = [](RandomModel& m) {
    m.n_embd = 256;
    m.n_head = 4;
    m.n_head_kv = 2;
    m.d_head = 64;
    m.n_ff = 512;
  };
  add("llama_mha", kF32, [](auto& m) { m.n_head_kv = 4; });
  add("llama_gqa", kF32, [](auto&) {});
  add("llama_mqa", kF32, [](auto& m) { m.n_head_kv = 1; });
  add("llama_qkv_bias", kF32, [](auto& m) { m.qkv_bias = true; });
  add("llama_output_bias", kF32, [](auto& m) { m.qkv_bias = m.output_bias = true; });
  add("llama_tied", kF32, [](auto& m) { m.tied = true; });
  add("llama_one_layer", kF32, [](auto& m) { m.n_layer = 1; });
  add("llama_seven_layers", kF32, [](auto& m) { m.n_layer = 7; });
  add("llama_wide_heads", kF32, [](auto& m) { m.d_head = 64; });  // n_head·d_head ≠ n_embd
  add("llama_rope_base", kF32, [](auto& m) { m.rope_base = 500000.0f; });
  add("llama_rope_freqs", kF32, [](auto& m) {
    m.rope_base = 500000.0f;
    m.d_head = 64;
    m.llama3_rope_freqs = true;
  });
  add("llama_rope_linear", kF32, [](auto& m) {
    m.rope_scaling = RopeScaling::kLinear;
    m.rope_factor = 4;
  });
  add("llama_rope_yarn", kF32, [](auto& m) {
    m.rope_scaling = RopeScaling::kYarn;
    m.rope_factor = 4;
    m.rope_n_ctx_orig = 64;
  });
  add("qwen2_gqa", kF32, [](auto& m) { m.family = "qwen2"; });
  add("qwen2_tied_mqa", kF32, [](auto& m) {
    m.family = "qwen2";
    m.tied = true;
    m.n_head_kv = 1;
    m.n_layer = 3;
  });
  add("qwen2_yarn", kF32, [](auto& m) {
    m.family = "qwen2";
    m.rope_scaling = RopeScaling::kYarn;
    m.rope_factor = 4;
    m.rope_n_ctx_orig = 128;
  });
  add("qwen3_gqa", kF32, [](auto& m) { m.family = "qwen3"; });
  add("qwen3_tied_mha", kF32, [](auto& m) {
    m.family = "qwen3";
    m.tied = true;
    m.n_head_kv = 4;
    m.n_layer = 5;
    m.d_head = 32;
  });
  add("qwen3_linear", kF32, [](auto& m) {
    m.family = "qwen3";
    m.rope_scaling = RopeScaling::kLinear;
    m.rope_factor = 2;
  });
  // Prompts of the tests are longer than the window, and the last layer has one or none.
  for (int layers : {7, 12})
    add(fmt::format("gemma3_{}_layers", layers), kF32, [=](auto& m) {
      m.family = "gemma3";
      m.n_layer = layers;
      m.window = 40;
      m.rope_base = 1e6f;
      m.rope_scaling = RopeScaling::kLinear;
      m.rope_factor = 8;
    });
  for (int layers : {4, 5})
    add(fmt::format("gemma2_{}_layers", layers), kF32, [=](auto& m) {
      m.family = "gemma2";
      m.tied = true;
      m.n_layer = layers;
      m.window = 40;
      m.rope_base = 5e4f;
      m.attention_softcap = 2.5f;
      m.logit_softcap = 7.0f;
    });
  // A file that names no bounds and no window.
  add("gemma2_defaults", kF32, [](auto& m) {
    m.family = "gemma2";
    m.tied = true;
  });
  // 46 layers stand for the model that scales otherwise; they enlarge roundings.
  add("gemma2_46_layers", kQuantized, [](auto& m) {
    m.family = "gemma2";
    m.tied = true;
    m.n_layer = 46;
    m.n_embd = 256;
    m.n_ff = 64;
    m.window = 40;
    m.attention_softcap = 2.5f;
  });
  // The sizes of the larger files, scaled down, and the other way round.
  auto gemma4 = [](RandomModel& m) {
    m.family = "gemma4";
    m.window = 40;
    m.rope_base = 1e6f;
    m.n_layer = 7;
    m.d_head = 32;
    m.n_head_kv = 1;
    m.d_head_window = 16;
    m.n_head_kv_window = 4;
    m.logit_softcap = 7.0f;
  };
  add("gemma4", kF32, gemma4);
  add("gemma4_wide_windows", kF32, [&](auto& m) {
    gemma4(m);
    m.n_layer = 6;
    m.n_head_kv = 2;
    m.d_head_window = 48;
    m.n_head_kv_window = 2;
    m.n_rot_window = 12;
    m.logit_softcap = 0;
    m.tied = true;
  });
  for (int layers : {4, 5})
    add(fmt::format("gpt_oss_{}_layers", layers), kRouted, [=](auto& m) {
      m.family = "gpt-oss";
      m.n_layer = layers;
      m.n_expert = 8;
      m.window = 40;
      m.rope_scaling = RopeScaling::kYarn;
      m.rope_factor = 4;
      m.rope_n_ctx_orig = 64;
    });
  // All experts are used, so that roundings choose none.
  add("gpt_oss_mxfp4", kQuantized, [&](auto& m) {
    wide(m);
    m.family = "gpt-oss";
    m.n_expert = m.n_expert_used = 3;
    m.n_ff_expert = 256;
    m.window = 40;
    m.type = GGML_TYPE_MXFP4;
  });
  add("exaone4", kF32, [](auto& m) { m.family = "exaone4"; });
  // libllama 0.7 takes the window of the model of 64 layers alone, which enlarge roundings.
  add("exaone4_windows", kQuantized, [](auto& m) {
    m.family = "exaone4";
    m.n_layer = 64;
    m.n_ff = 64;
    m.window = 40;
  });
  add("gemma3_window_of_one", kF32, [](auto& m) {
    m.family = "gemma3";
    m.n_layer = 3;
    m.window = 1;
  });
  add("gemma3_wide_window", kF32, [](auto& m) {
    m.family = "gemma3";
    m.n_layer = 6;
    m.window = 2000;
  });
  add("llama_experts", kRouted, [](auto& m) {
    m.n_expert = 4;
    m.n_ff_expert = m.n_ff;
  });
  auto experts = [](RandomModel& m) {
    m.family = "qwen3moe";
    m.n_expert = 8;
  };
  add("qwen3moe", kRouted, experts);
  add("qwen3moe_one", kF32, [&](auto& m) {
    experts(m);
    m.n_expert = m.n_expert_used = 1;
  });
  add("qwen3moe_sixteen_of_twenty", kRouted, [&](auto& m) {
    experts(m);
    m.n_expert = 20;
    m.n_expert_used = 16;
    m.n_ff_expert = 32;
  });
  // All experts are used, so that roundings choose none.
  add("qwen3moe_q8_0", kQuantized, [&](auto& m) {
    experts(m);
    m.n_expert = m.n_expert_used = 3;
    m.type = GGML_TYPE_Q8_0;
  });
  add("qwen3moe_q4_K", kQuantized, [&](auto& m) {
    wide(m);
    experts(m);
    m.n_expert = m.n_expert_used = 3;
    m.n_ff_expert = 256;
    m.type = GGML_TYPE_Q4_K;
  });
  auto deltas = [](RandomModel& m) {
    m.family = "qwen35";
    m.n_layer = 8;
    m.n_rot = 8;
  };
  add("qwen35", kF32, deltas);
  // The last layer is recurrent, one predicts further tokens, and the sizes are others.
  add("qwen35_seven_layers", kF32, [&](auto& m) {
    deltas(m);
    m.extra_layers = 1;
    m.attention_interval = 3;
    m.n_layer = 7;
    m.n_head = 6;
    m.delta_key_heads = 3;
    m.delta_heads = 9;
    m.delta_d_head = 16;
    m.delta_kernel = 3;
  });
  for (const bool quantized : {false, true})
    add(quantized ? "qwen35moe_q4_K" : "qwen35moe", quantized ? kQuantized : kRouted, [&](auto& m) {
      deltas(m);
      if (quantized) wide(m);
      m.family = "qwen35moe";
      m.n_expert = quantized ? 3 : 20;
      m.n_expert_used = quantized ? 3 : 6;
      m.n_ff_expert = quantized ? 256 : 32;
      m.n_ff_shared = quantized ? 512 : 96;
      if (!quantized) return;
      m.type = GGML_TYPE_Q4_K;
      m.delta_d_head = 64;
    });
  auto of = [](const char* family) { return [=](RandomModel& m) { m.family = family; }; };
  add("olmo2", kF32, of("olmo2"));
  // OLMo 3's files: RoPE of the layers without a window is scaled.
  for (int layers : {7, 8})
    add(fmt::format("olmo3_{}_layers", layers), kF32, [=](auto& m) {
      m.family = "olmo2";
      m.n_layer = layers;
      m.window = 40;
      m.rope_base = 5e5f;
      m.rope_scaling = RopeScaling::kYarn;
      m.rope_factor = 8;
      m.rope_attn_factor = 1.2f;
      m.rope_n_ctx_orig = 64;
    });
  add("seed_oss", kF32, [](auto& m) {
    m.family = "seed_oss";
    m.rope_base = 1e7f;
  });
  auto minimax = [](RandomModel& m) {
    m.family = "minimax-m2";
    m.n_rot = 8;
    m.n_expert = 20;
    m.n_expert_used = 8;
    m.n_ff = m.n_ff_expert = 96;
    m.rope_base = 5e6f;
  };
  add("minimax_m2", kRouted, minimax);
  // All experts are used, so that roundings choose none.
  add("minimax_m2_q8_0", kQuantized, [&](auto& m) {
    minimax(m);
    m.n_expert = m.n_expert_used = 3;
    m.type = GGML_TYPE_Q8_0;
  });
  add("granite", kF32, of("granite"));
  add("granitemoe", kRouted, [](auto& m) {
    m.family = "granitemoe";
    m.n_expert = 8;
    m.n_ff_expert = m.n_ff;
    m.n_ff_shared = 96;
  });
  add("smollm3", kF32, [](auto& m) {
    m.family = "smollm3";
    m.n_layer = 5;
  });
  add("phi3", kF32, of("phi3"));
  for (const bool is_long : {false, true})
    add(is_long ? "phi3_long_factors" : "phi3_short_factors", kF32, [&](auto& m) {
      m.family = "phi3";
      m.rope_scaling = RopeScaling::kLong;
      m.n_rot = 12;
      m.rope_attn_factor = 1.2f;
      m.rope_n_ctx_orig = is_long ? 64 : m.n_ctx;
    });
  add("phi3_q4_K", kQuantized, [&](auto& m) {
    wide(m);
    m.family = "phi3";
    m.type = GGML_TYPE_Q4_K;
  });
  add("mistral3", kF32, [](auto& m) {
    m.family = "mistral3";
    m.rope_scaling = RopeScaling::kYarn;
    m.rope_factor = 4;
    m.rope_n_ctx_orig = 48;
    m.query_growth = 0.5f;
  });
  add("hunyuan_dense", kF32, of("hunyuan-dense"));
  add("glm4moe", kRouted, [](auto& m) {
    m.family = "glm4moe";
    m.n_layer = 3;
    m.n_rot = 8;
    m.n_expert = 20;
    m.n_expert_used = 16;
    m.n_ff_shared = m.n_ff_expert;
    m.dense_layers = 1;
    m.expert_scale = 1.5f;
    m.extra_layers = 1;
  });
  for (auto [type, bound] : {std::pair{GGML_TYPE_F16, kF16},
                             {GGML_TYPE_BF16, kF16},
                             {GGML_TYPE_Q8_0, kQuantized},
                             {GGML_TYPE_Q4_0, kQuantized},
                             {GGML_TYPE_Q4_K, kQuantized},
                             {GGML_TYPE_Q6_K, kQuantized}})
    for (const char* family : {"llama", "qwen2"})
      add(fmt::format("{}_{}", family, ggml_type_name(type)), bound, [&, t = type](auto& m) {
        wide(m);
        m.family = family;
        m.type = t;
        m.tied = m.family == "qwen2";
      });
  add("gemma4_layer_embeddings", kF32, [&](auto& m) {
    gemma4(m);
    m.n_embd_layer = 24;
    m.n_ff_above = 192;
  });
  // Layers 6 and 7 read what layer 4 has, layer 8 what layer 5 has.
  for (const int window : {40, 2000})
    add(window == 40 ? "gemma4_shared" : "gemma4_shared_wide_window", kF32, [&](auto& m) {
      gemma4(m);
      m.n_layer = 9;
      m.window = window;
      m.shared_layers = 3;
      m.n_embd_layer = 24;
      m.n_ff_above = 192;
    });
  // Two layers have K and V of their own, and the last one reads those of a window.
  add("gemma4_shared_by_most", kF32, [&](auto& m) {
    gemma4(m);
    m.n_layer = 8;
    m.shared_layers = 5;
  });
  add("gemma4_experts", kRouted, [&](auto& m) {
    gemma4(m);
    m.n_expert = 8;
    m.n_expert_used = 3;
    m.n_ff_expert = 48;
  });
  // All experts are used, so that roundings choose none; the widths are others.
  add("gemma4_experts_q8_0", kQuantized, [&](auto& m) {
    gemma4(m);
    m.n_layer = 3;
    m.n_expert = m.n_expert_used = 3;
    m.n_ff = 192;
    m.type = GGML_TYPE_Q8_0;
  });
  add("gemma4_layer_embeddings_q8_0", kQuantized, [&](auto& m) {
    gemma4(m);
    m.n_layer = 3;
    m.n_embd_layer = 64;  // ggml's AMX kernels multiply rows of a single block wrongly
    m.type = GGML_TYPE_Q8_0;
  });
  return out;
}

class RandomModelParity : public testing::TestWithParam<Case> {};

TEST_P(RandomModelParity, LogitsAgree) {
  const auto& c = GetParam();
  // Three chunks, the last not whole, and more tokens than the original context of the YaRN cases.
  expect_parity(c.name, random_model_path(c.name, c.model), random_tokens(150, c.model.n_vocab, c.model.seed),
                0.9, c.bound);
}

INSTANTIATE_TEST_SUITE_P(Shapes, RandomModelParity, testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

std::vector<Case> cases_of(std::initializer_list<std::string_view> names) {
  auto all = cases();
  std::erase_if(all, [&](const Case& c) { return std::ranges::find(names, c.name) == names.end(); });
  return all;
}

class SlidingParity : public testing::TestWithParam<Case> {};

// libllama drops tokens of all layers: those that a window still shows are kept.
TEST_P(SlidingParity, AnswersAsLibllamaWithoutTheTokensThatWereDropped) {
  const auto& c = GetParam();
  expect_dropped_parity(c.name, random_model_path(c.name, c.model),
                        random_tokens(150, c.model.n_vocab, c.model.seed), 100, 50, c.bound);
}

INSTANTIATE_TEST_SUITE_P(
    Families, SlidingParity,
    testing::ValuesIn(cases_of({"gemma3_7_layers", "gemma3_12_layers", "gemma3_window_of_one",
                                "gpt_oss_4_layers", "gpt_oss_5_layers", "exaone4_windows", "olmo3_7_layers",
                                "olmo3_8_layers", "gemma2_4_layers", "gemma2_5_layers", "gemma4",
                                "gemma4_wide_windows", "gemma4_layer_embeddings", "gemma4_shared",
                                "gemma4_shared_by_most", "gemma4_experts"})),
    [](const auto& test) { return test.param.name; });

class SelectionParity : public testing::TestWithParam<Case> {};

// All layers together choose what they keep, so that libllama can be without the other tokens. Recurrent
// layers have read those, here as there.
TEST_P(SelectionParity, AnswersAsLibllamaWithoutTheTokensThatWereDropped) {
  const auto& c = GetParam();
  const auto path = random_model_path(c.name, c.model);
  const auto tokens = random_tokens(230, c.model.n_vocab, c.model.seed);
  constexpr size_t kKnown = 200;
  SelectionConfig config;
  const auto model = load_plain(path);
  config.gamma = model->hparams().n_full_layers();
  config.pyramid = Pyramid::kFlat;
  const auto policy = windowkv_policy(Budget::percent(12), config);
  Engine engine(*model, {.chunk = kChunk});
  Sequence sequence;
  const auto first = engine.prefill(sequence, std::span(tokens).first(kKnown), *policy);
  Logits ours = {{first.begin(), first.end()}};
  const auto kept = kept_by_layer(sequence);
  const auto full_layers = model->hparams().full_layers();
  const auto& tokens_kept = kept[static_cast<size_t>(full_layers.front())][0];
  for (const int layer : full_layers) {
    const auto& lists = kept[static_cast<size_t>(layer)];
    ASSERT_EQ(lists.size(), 1u);
    EXPECT_EQ(lists[0], tokens_kept);
    EXPECT_EQ(lists[0].size(), kKnown * 12 / 100);
  }
  std::ranges::move(decoded_logits(engine, sequence, std::span(tokens).subspan(kKnown)),
                    std::back_inserter(ours));
  Reference reference(path);
  auto answers = [&](bool flash) {
    const auto all = reference.all_logits(tokens, kChunk, kKnown, flash, tokens_kept);
    return Logits{all.begin() + kKnown - 1, all.end()};
  };
  const auto exact = answers(false);
  const auto d = compare(ours, exact);
  const auto flash = compare(answers(true), exact);
  report(c.name + " at 12 %", d);
  report(c.name + " libllama's", flash);
  EXPECT_LE(c.bound.typical(d), 1.5 * c.bound.typical(flash) + 1e-4);
  if (!c.bound.routed) {
    EXPECT_LT(d.worst, c.bound.error);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Families, SelectionParity,
    testing::ValuesIn(cases_of({"llama_gqa", "qwen2_gqa", "qwen3_gqa", "qwen3moe", "olmo2", "granitemoe",
                                "smollm3", "phi3_long_factors", "mistral3", "hunyuan_dense", "glm4moe",
                                "qwen35", "qwen35_seven_layers", "qwen35moe", "seed_oss", "minimax_m2"})),
    [](const auto& test) { return test.param.name; });

// Files from before rope.scaling.type carry the factor alone; llama.cpp takes that as linear scaling.
TEST(OldRopeScaling, FactorWithoutTypeIsLinear) {
  RandomModel m;
  m.type = GGML_TYPE_F32;
  const auto plain = random_model_path("plain", m);
  const auto tokens = random_tokens(60, m.n_vocab);
  for (const char* key : {"llama.rope.scale_linear", "llama.rope.scaling.factor"}) {
    SCOPED_TRACE(key);
    const auto path =
        edit_gguf(plain, "scaled.gguf", [&](GgufEdit& e) { gguf_set_val_f32(e.meta, key, 4.0f); });
    expect_prefill_parity(key, path, tokens, kChunk, 0.99, Bound{1e-2});
  }
}

}  // namespace
}  // namespace windowkv::test
