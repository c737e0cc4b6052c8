// Quantized caches: bytes to the last, and how little they change.
#include "windowkv/kv_type.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "support/files.h"
#include "support/models.h"
#include "support/reference.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

constexpr KvTypes kBf16{KvType::kBf16, KvType::kBf16};
constexpr KvTypes kQ8{KvType::kQ8_0, KvType::kQ8_0};
constexpr KvTypes kQ4{KvType::kQ4_0, KvType::kQ4_0};
constexpr KvTypes kMixed{KvType::kQ8_0, KvType::kQ4_0};

std::vector<double> probabilities(std::span<const float> logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  std::vector<double> p(logits.size());
  std::transform(logits.begin(), logits.end(), p.begin(), [&](float x) { return std::exp(x - most); });
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (auto& x : p) x /= sum;
  return p;
}

double kl(std::span<const float> from, std::span<const float> to) {
  const auto p = probabilities(from);
  const auto q = probabilities(to);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i)
    if (p[i] > 0) sum += p[i] * std::log(p[i] / std::max(q[i], 1e-300));
  return sum;
}

/// Logits along `follow`, teacher-forced, after the prompt under the policy.
Logits along(const Model& model, KvTypes types, const Policy& policy, std::span<const Token> prompt,
             std::span<const Token> follow, int64_t reserve = 0) {
  Engine engine(model, {.kv = types});
  Sequence sequence;
  PrefillOptions options;
  options.reserve = reserve;
  engine.prefill(sequence, prompt, policy, options);
  Logits out;
  for (auto token : follow) {
    const auto logits = engine.decode(sequence, token);
    out.emplace_back(logits.begin(), logits.end());
  }
  return out;
}

double mean_kl(const Logits& from, const Logits& to) {
  double sum = 0;
  for (size_t i = 0; i < from.size(); ++i) sum += kl(from[i], to[i]);
  return sum / static_cast<double>(from.size());
}

TEST(KvType, NamesAreGgmlsAndOthersAreRefused) {
  for (const auto& name : kv_type_names()) EXPECT_EQ(to_string(parse_kv_type(name)), name);
  EXPECT_EQ(kv_type_names().size(), 4u);
  for (const char* bad : {"", "f32", "F16", "q5_0", "q8"}) EXPECT_THROW(parse_kv_type(bad), Error) << bad;
}

TEST(KvType, BytesAreTheBlocks) {
  // ggml's blocks: 32 elements and a scale of 2 bytes, so 34 bytes in q8_0 and 18 in q4_0.
  HParams hp;
  hp.d_head = 64;
  hp.n_head_kv = 2;
  EXPECT_EQ(kv_token_bytes(hp, {}), 2 * 128 * 2);
  EXPECT_EQ(kv_token_bytes(hp, kBf16), 2 * 128 * 2);
  EXPECT_EQ(kv_token_bytes(hp, kQ8), 2 * 4 * 34);
  EXPECT_EQ(kv_token_bytes(hp, kQ4), 2 * 4 * 18);
  EXPECT_EQ(kv_token_bytes(hp, kMixed), 4 * 34 + 4 * 18);
}

TEST(KvType, HeadsThatMakeNoBlocksAreRefused) {
  RandomModel m;
  m.d_head = 16;
  const auto model = load(random_model_path("sixteen", m));
  EXPECT_THROW(Engine(*model, {.kv = kQ8}), Error);
  EXPECT_THROW(Engine(*model, {.kv = {KvType::kF16, KvType::kQ4_0}}), Error);
  EXPECT_NO_THROW(Engine(*model, {.kv = kBf16}));
}

TEST(KvType, MemoryIsAsPlanned) {
  const auto model = load(minilong_path("q8_0"));
  const auto& hp = model->hparams();
  const auto config = make_config("default", Task::kLocalization, hp.n_layer);
  for (auto types : {KvTypes{}, kBf16, kQ8, kQ4, kMixed})
    for (const char* budget : {"12%", "100%"}) {
      SCOPED_TRACE(fmt::format("{} {} {}", to_string(types.k), to_string(types.v), budget));
      Engine engine(*model, {.kv = types});
      const auto policy = windowkv_policy(Budget::parse(budget), config);
      Sequence sequence;
      PrefillOptions options;
      options.reserve = 10;
      engine.prefill(sequence, random_tokens(400, hp.n_vocab), *policy, options);
      const auto plan = engine.plan(400, *policy, 10);
      const int64_t kept = std::accumulate(sequence.kept.begin(), sequence.kept.end(), int64_t{0});
      EXPECT_EQ(sequence.bytes.kept, kept * kv_token_bytes(hp, types));
      EXPECT_EQ(sequence.bytes.peak, plan.peak_kv());
      EXPECT_EQ(plan.kv_full, 400 * hp.n_layer * hp.kv_row() * 4);
      EXPECT_EQ(sequence.bytes.full, plan.kv_full);
      // A whole cache of another type is converted layer by layer.
      const bool scratch = budget[1] == '2' || types != KvTypes{};
      EXPECT_EQ(plan.kv_scratch, scratch ? 400 * hp.kv_row() * 4 : 0);
    }
}

TEST(KvType, EightBitsAreNextToF16OnMiniLong) {
  const auto model = load(minilong_path("q8_0"));
  const auto& vocab = model->vocab();
  const auto text = vocab.tokenize(data_text("sherlock.txt").substr(0, 3000));
  const auto prompt = std::span(text).first(text.size() - 60);
  const auto follow = std::span(text).last(60);
  const auto config = make_config("default", Task::kLocalization, model->hparams().n_layer);
  for (const char* name : {"full", "windowkv", "snapkv"}) {
    SCOPED_TRACE(name);
    const auto policy = make_policy(name, {Budget::percent(12), config});
    const auto f16 = along(*model, {}, *policy, prompt, follow);
    const double bf16 = mean_kl(f16, along(*model, kBf16, *policy, prompt, follow));
    const double q8 = mean_kl(f16, along(*model, kQ8, *policy, prompt, follow));
    const double mixed = mean_kl(f16, along(*model, kMixed, *policy, prompt, follow));
    const double q4 = mean_kl(f16, along(*model, kQ4, *policy, prompt, follow));
    RecordProperty(std::string(name) + "_kl",
                   fmt::format("bf16 {:.2e} q8_0 {:.2e} q8_0/q4_0 {:.2e} q4_0 {:.2e}", bf16, q8, mixed, q4));
    EXPECT_LT(bf16, 1e-3);
    EXPECT_LT(q8, 1e-3);
    EXPECT_LT(mixed, 0.1);
    EXPECT_LT(q4, 0.2);
    EXPECT_GT(q4, q8);
  }
}

TEST(KvType, GrowingAndBatchesGiveTheSame) {
  const auto model = load(minilong_path("q8_0"));
  const auto prompt = random_tokens(300, model->hparams().n_vocab);
  const auto follow = random_tokens(100, model->hparams().n_vocab, 5);
  for (auto types : {kQ8, kQ4, kMixed}) {
    // Heads keep different tokens, so that rows are written in parts.
    const auto policy = make_policy("snapkv", {Budget::percent(30), make_config("default", {}, 6)});
    const auto reserved = along(*model, types, *policy, prompt, follow, 200);
    const auto grown = along(*model, types, *policy, prompt, follow, 0);
    EXPECT_EQ(grown, reserved);

    Engine engine(*model, {.kv = types});
    PrefillOptions options;
    options.reserve = 100;
    options.pool = engine.make_pool(3 * engine.plan(300, *policy, 100).peak_kv());
    std::vector<Sequence> sequences(3);
    for (auto& sequence : sequences) engine.prefill(sequence, prompt, *policy, options);
    for (size_t i = 0; i < follow.size(); ++i) {
      std::vector<Step> steps;
      for (auto& sequence : sequences) steps.push_back({&sequence, follow[i]});
      const auto logits = engine.decode(steps);
      const size_t vocab = logits.size() / 3;
      for (size_t s = 0; s < 3; ++s)
        EXPECT_LT(relative_error(logits.subspan(s * vocab, vocab), reserved[i]), 3e-2) << i;
    }
  }
}

}  // namespace
}  // namespace windowkv::test
