// Models of which some layers see a window of tokens alone: what a policy is told of them, and that every way
// through the engine shows a query what its window shows.
#include "engine/sliding.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "support/models.h"
#include "support/reference.h"
#include "windowkv/engine.h"
#include "windowkv/selection.h"

namespace windowkv::test {
namespace {

constexpr int kWindow = 40;
constexpr int64_t kPrompt = 300;

std::string model_path() {
  RandomModel m;
  m.family = "gemma3";
  m.type = GGML_TYPE_F32;
  m.n_layer = 13;  // layers 5 and 11 see everything
  m.window = kWindow;
  return random_model_path("sliding", m);
}

class Sliding : public testing::Test {
 protected:
  std::unique_ptr<Model> model = load(model_path());
  const HParams& hp = model->hparams();
  Engine engine{*model, {.chunk = 64}};
  std::vector<Token> prompt = random_tokens(kPrompt, hp.n_vocab);
  std::vector<Token> answer = random_tokens(150, hp.n_vocab, 2);

  Sequence prefilled(const Policy& policy, PrefixStore* store = nullptr) {
    Sequence sequence;
    PrefillOptions options;
    options.store = store;
    engine.prefill(sequence, prompt, policy, options);
    return sequence;
  }

  /// Logits after each of the answer's first `count` tokens.
  Logits decoded(Sequence& sequence, size_t count) {
    return decoded_logits(engine, sequence, std::span(answer).first(count));
  }
};

TEST_F(Sliding, PoliciesAreToldOfTheOtherLayers) {
  const auto budget = Budget::tokens(60);
  for (const auto& name : policy_names()) {
    SCOPED_TRACE(name);
    const auto policy = make_policy(name, {budget, SelectionConfig{}});
    const auto selector = start_selector(hp, *policy, kPrompt);
    for (int layer = 0; layer < hp.n_layer; ++layer) {
      const bool full = layer == 5 || layer == 11;
      EXPECT_EQ(hp.slides(layer), !full);
      EXPECT_GE(selector->settled_at(layer), layer);
      EXPECT_GE(selector->settled_at(layer), selector->settled_at(std::max(0, layer - 1)));
      if (!full) {
        EXPECT_EQ(selector->capacity(layer), kWindow);
        EXPECT_FALSE(selector->decides(layer));
      }
    }
    const auto sequence = prefilled(*policy);
    ASSERT_EQ(sequence.groups.size(), 13u);
    int64_t kept = 0;
    for (int layer = 0; layer < hp.n_layer; ++layer) {
      const auto& [group, tokens, windows, ranges, by_head] = sequence.groups[static_cast<size_t>(layer)];
      EXPECT_EQ(group.first_layer, layer);
      EXPECT_EQ(group.last_layer, layer);
      kept += sequence.kept[static_cast<size_t>(layer)];
      if (hp.slides(layer)) {
        EXPECT_EQ(sequence.kept[static_cast<size_t>(layer)], kWindow);
        EXPECT_EQ(ranges, (std::vector<TokenRange>{{kPrompt - kWindow, kPrompt}}));
      } else if (name == "full") {
        EXPECT_EQ(sequence.kept[static_cast<size_t>(layer)], kPrompt);
      }
    }
    if (name != "full") {
      EXPECT_LE(kept, 11 * kWindow + 2 * 60);
    }
    EXPECT_EQ(sequence.bytes.full, (11 * kWindow + 2 * kPrompt) * hp.kv_layer_bytes_per_token());
    const auto peak = engine.plan(kPrompt, *policy, 0).peak_kv();
    EXPECT_LE(sequence.bytes.peak, peak);
    // Where heads of all layers compete, the plan does not know how it ends.
    if (!start_selector(hp, *policy, kPrompt)->heads_differ()) {
      EXPECT_EQ(sequence.bytes.peak, peak);
    }
  }
}

TEST_F(Sliding, LayerSharesAreThoseOfTheOtherLayers) {
  HParams shared = hp;
  shared.layer_shares.assign(13, 5.0);
  shared.layer_shares[5] = 0.5;
  shared.layer_shares[11] = 1.5;
  const auto config = make_config("default", Task::kLocalization, shared.n_full_layers());
  const auto selector =
      start_selector(shared, *make_policy("windowkv", {Budget::tokens(60), config}), kPrompt);
  EXPECT_LT(selector->capacity(5), 60);
  EXPECT_GT(selector->capacity(11), 60);
  EXPECT_EQ(selector->capacity(5) + selector->capacity(11), 120);
}

/// Logits of the whole prompt in chunks of several sizes, by products and by ggml's fused kernel.
void expect_chunks_and_products_change_nothing(const std::string& path, std::span<const Token> prompt) {
  Logits expected;
  for (const bool blas : {true, false}) {
    const auto model = load(path, 1, blas);
    for (int chunk : {7, 64, 512}) {
      Engine engine(*model, {.chunk = chunk});
      Logits got;
      PrefillOptions options;
      options.all_logits = [&](int64_t, std::span<const float> logits) {
        got.emplace_back(logits.begin(), logits.end());
      };
      Sequence sequence;
      engine.prefill(sequence, prompt, *full_policy(), options);
      if (expected.empty()) expected = got;
      const auto d = compare(got, expected);
      EXPECT_LT(d.worst, 2e-2) << chunk;
      EXPECT_LT(d.mean, 2e-3) << chunk;
    }
  }
}

TEST_F(Sliding, ChunksAndProductsChangeNothing) {
  expect_chunks_and_products_change_nothing(model_path(), prompt);
}

TEST_F(Sliding, ChunksAndProductsChangeNothingWhereLogitsAreBounded) {
  RandomModel m;
  m.family = "gemma2";
  m.tied = true;
  m.type = GGML_TYPE_F32;
  m.n_layer = 5;
  m.window = kWindow;
  m.attention_softcap = 1.5f;
  m.logit_softcap = 7.0f;
  expect_chunks_and_products_change_nothing(random_model_path("bounded", m), prompt);
}

TEST_F(Sliding, TokensThatAreKnownPassAsTheyAreDecoded) {
  const auto policy = windowkv_policy(Budget::tokens(60), SelectionConfig{});
  auto one = prefilled(*policy), other = prefilled(*policy);
  const auto expected = decoded(one, answer.size());
  Logits got;
  engine.follow(other, answer, [&](int64_t, std::span<const float> logits) {
    got.emplace_back(logits.begin(), logits.end());
  });
  EXPECT_LT(compare(got, expected).mean, 2e-3);
}

TEST_F(Sliding, AnAnswerIsTheSameAfterRewindingAndInAFork) {
  auto sequence = prefilled(*windowkv_policy(Budget::tokens(60), SelectionConfig{}));
  auto forked = engine.fork(sequence);
  const auto expected =
      decoded(sequence, answer.size());  // further than the window, and than there is room for
  sequence.rewind();
  EXPECT_EQ(decoded(sequence, answer.size()), expected);
  EXPECT_EQ(decoded(forked, answer.size()), expected);
}

// Rows of the store's blocks, of the cache, and generated ones that join those that are chosen among.
TEST_F(Sliding, WhatAStoreHoldsIsReadAsACacheIs) {
  auto full = prefilled(*full_policy());
  const auto expected = decoded(full, answer.size());
  PrefixStore store(*model, {.types = {}});
  for (const size_t tokens : {250, 300}) {
    Sequence part;
    PrefillOptions options;
    options.store = &store;
    engine.prefill(part, std::span(prompt).first(tokens), *full_policy(), options);
  }
  auto from_store = prefilled(*full_policy(), &store);
  EXPECT_GT(from_store.reused_tokens, 0);
  EXPECT_LT(compare(decoded(from_store, answer.size()), expected).mean, 1e-3);
  SelectionConfig config;
  config.windows = Windows::kFree;
  const auto recalling = make_policy("windowkv", {Budget::percent(100), config, 1});
  auto recalled = prefilled(*recalling, &store);
  EXPECT_LT(compare(decoded(recalled, answer.size()), expected).mean, 1e-3);
}

}  // namespace
}  // namespace windowkv::test
