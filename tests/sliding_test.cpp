// Models of which some layers see a window of tokens alone: what a policy is told of them, and that every way
// through the engine shows a query what its window shows.
#include "engine/sliding.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "cache/kv_cache.h"
#include "support/models.h"
#include "support/reference.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"
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
void expect_chunks_and_products_change_nothing(const std::string& path, std::span<const Token> prompt,
                                               double mean = 2e-3) {
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
      EXPECT_LT(d.mean, mean) << chunk;
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

struct Sizes {
  int d_head;
  int d_head_window;
  int shared_layers = 0;
  /// Tokens that a window shows.
  int window = kWindow;
  std::string name() const {
    return fmt::format("{}_{}_shared_{}_window_{}", d_head, d_head_window, shared_layers, window);
  }
};

void PrintTo(const Sizes& sizes, std::ostream* out) {
  *out << sizes.name();
}

/// Layers 2 and 5 of 7 see everything, with heads of other numbers and widths than the others have. Of those
/// that share K and V, behind the first six, every third one does.
class LayersThatDiffer : public testing::TestWithParam<Sizes> {
 protected:
  static std::string path() {
    const auto& sizes = GetParam();
    RandomModel m;
    m.family = "gemma4";
    m.type = GGML_TYPE_F32;
    m.n_layer = sizes.shared_layers > 0 ? 6 + sizes.shared_layers : 7;
    m.window = sizes.window;
    m.d_head = sizes.d_head;
    m.n_head_kv = 1;
    m.d_head_window = sizes.d_head_window;
    m.n_head_kv_window = 4;
    m.shared_layers = sizes.shared_layers;
    if (sizes.shared_layers > 0) m.n_embd_layer = 24;
    return random_model_path("differ_" + sizes.name(), m);
  }
  std::unique_ptr<Model> model = load(path());
  const HParams& hp = model->hparams();
  std::vector<Token> prompt = random_tokens(kPrompt, hp.n_vocab);
  std::vector<Token> answer = random_tokens(150, hp.n_vocab, 2);
};

TEST_P(LayersThatDiffer, HaveTheirSizes) {
  const auto [d_head, d_head_window, shared, window] = GetParam();
  EXPECT_EQ(hp.heads(0), (HeadSizes{4, 4, d_head_window}));
  EXPECT_EQ(hp.heads(2), (HeadSizes{4, 1, d_head}));
  EXPECT_EQ(hp.full_layers(), (std::vector<int>{2, 5}));
  EXPECT_FALSE(hp.layers_alike());
  EXPECT_EQ(hp.kv_row(0) % hp.kv_unit(), 0);
  EXPECT_EQ(hp.kv_row(2) % hp.kv_unit(), 0);
  EXPECT_EQ(hp.common_units() % hp.row_units(0), 0);
  EXPECT_EQ(hp.common_units() % hp.row_units(2), 0);
  const int64_t windows = shared > 0 ? 4 : 5;
  EXPECT_EQ(hp.full_bytes(kPrompt),
            4 * (windows * std::min<int64_t>(window, kPrompt) * hp.kv_row(0) + 2 * kPrompt * hp.kv_row(2)));
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    EXPECT_EQ(hp.shares(layer), shared > 0 && layer >= 6);
    EXPECT_EQ(hp.rows_layer(layer), !hp.shares(layer) ? layer : layer % 3 < 2 ? 4 : 5);
    EXPECT_EQ(hp.read_above(layer), layer == 4 ? shared > 0 : layer == 5 && shared > 2);
  }
}

TEST_P(LayersThatDiffer, ChunksAndProductsChangeNothing) {
  // Queries are not scaled: ggml's kernel rounds larger logits to 16 bits.
  expect_chunks_and_products_change_nothing(path(), prompt, 5e-3);
}

TEST_P(LayersThatDiffer, TakeWhatIsPlanned) {
  for (const KvTypes types : {KvTypes{}, KvTypes{KvType::kQ8_0, KvType::kQ8_0}}) {
    Engine engine(*model, {.chunk = 64, .kv = types});
    for (const auto& name : policy_names()) {
      SCOPED_TRACE(name);
      const auto policy = make_policy(name, {Budget::tokens(60), SelectionConfig{}});
      Sequence sequence;
      engine.prefill(sequence, prompt, *policy, {});
      int64_t kept = 0;
      for (int layer = 0; layer < hp.n_layer; ++layer) {
        kept += sequence.kept[static_cast<size_t>(layer)] * kv_token_bytes(hp, types, layer);
        if (!hp.shares(layer)) continue;
        EXPECT_EQ(sequence.kept[static_cast<size_t>(layer)], 0);
        EXPECT_EQ(sequence.cache->layer(layer).rows.capacity(), 0);
        EXPECT_FALSE(start_selector(hp, *policy, kPrompt)->decides(layer));
      }
      EXPECT_EQ(sequence.groups.size(), static_cast<size_t>(hp.own_layers()));
      EXPECT_EQ(sequence.bytes.kept, kept);
      EXPECT_EQ(sequence.bytes.full, hp.full_bytes(kPrompt));
      const auto peak = engine.plan(kPrompt, *policy, 0).peak_kv();
      EXPECT_LE(sequence.bytes.peak, peak);
      if (!start_selector(hp, *policy, kPrompt)->heads_differ()) {
        EXPECT_EQ(sequence.bytes.peak, peak);
      }
      decoded_logits(engine, sequence,
                     std::span(answer).first(3));  // past the room there is
      for (int layer = hp.own_layers(); layer < hp.n_layer; ++layer)
        EXPECT_EQ(sequence.cache->layer(layer).length, 0);
    }
  }
}

// A pool's segments may begin where rows of one size do and those of the other do not.
TEST_P(LayersThatDiffer, AnswerInAPoolAsAlone) {
  Engine engine(*model, {.chunk = 64});
  const auto pool = engine.make_pool(int64_t{16} << 20);
  std::vector<Logits> expected;
  std::vector<Sequence> sequences(3);
  std::vector<std::unique_ptr<Policy>> policies;
  for (const int64_t budget : {61, 17, 33}) {
    policies.push_back(windowkv_policy(Budget::tokens(budget), SelectionConfig{}));
    Sequence alone;
    engine.prefill(alone, prompt, *policies.back());
    expected.push_back(decoded_logits(engine, alone, answer));
    PrefillOptions options;
    options.pool = pool;
    options.reserve = static_cast<int64_t>(answer.size());
    engine.prefill(sequences[policies.size() - 1], prompt, *policies.back(), options);
  }
  EXPECT_LT(pool.free_bytes(), pool.bytes());
  std::vector<Logits> got(3);
  for (const Token token : answer) {
    std::vector<Step> steps;
    for (auto& sequence : sequences) steps.push_back({&sequence, token});
    const auto logits = engine.decode(steps);
    const auto n = static_cast<size_t>(hp.n_vocab);
    for (size_t i = 0; i < steps.size(); ++i)
      got[i].emplace_back(logits.begin() + static_cast<ptrdiff_t>(i * n),
                          logits.begin() + static_cast<ptrdiff_t>((i + 1) * n));
  }
  for (size_t i = 0; i < got.size(); ++i) EXPECT_LT(compare(got[i], expected[i]).mean, 1e-5) << i;
  auto forked = engine.fork(sequences[0]);
  EXPECT_LT(
      compare(decoded_logits(engine, forked, answer), decoded_logits(engine, sequences[0], answer)).mean,
      1e-5);
  sequences.clear();
  EXPECT_EQ(pool.free_bytes(), pool.bytes());
}

TEST_P(LayersThatDiffer, AreReadFromAStoreThatIsNotSaved) {
  Engine engine(*model, {.chunk = 64});
  PrefixStore store(*model, {.types = {}});
  PrefillOptions options;
  options.store = &store;
  const auto full = full_policy();
  Sequence alone, part, whole, recalled;
  engine.prefill(alone, prompt, *full);
  const auto expected = decoded_logits(engine, alone, answer);
  engine.prefill(part, std::span(prompt).first(250), *full, options);
  engine.prefill(whole, prompt, *full, options);
  EXPECT_GT(whole.reused_tokens, 0);
  EXPECT_LT(compare(decoded_logits(engine, whole, answer), expected).mean, 1e-3);
  SelectionConfig config;
  config.windows = Windows::kFree;
  const auto again = make_policy("windowkv", {Budget::percent(100), config, 1});
  engine.prefill(recalled, prompt, *again, options);
  EXPECT_LT(compare(decoded_logits(engine, recalled, answer), expected).mean, 1e-3);
  EXPECT_EQ(recalled.bytes.full, hp.full_bytes(kPrompt));
  const auto file = testing::TempDir() + "differ.prefix";
  EXPECT_THROW(store.save(file), Error);
  EXPECT_THROW(PrefixStore::load(*model, file), Error);
}

TEST_P(LayersThatDiffer, PassTheSameTokensInEveryWay) {
  Engine engine(*model, {.chunk = 64});
  for (const auto* name : {"full", "windowkv", "kvzip", "laq", "h2o"}) {
    SCOPED_TRACE(name);
    const auto policy = make_policy(name, {Budget::tokens(60), SelectionConfig{}});
    Sequence sequence;
    const auto last = engine.prefill(sequence, prompt, *policy);
    const Logits ends = {{last.begin(), last.end()}};
    // Of all positions, which pass all layers.
    Logits all;
    PrefillOptions options;
    options.all_logits = [&](int64_t, std::span<const float> logits) {
      all.emplace_back(logits.begin(), logits.end());
    };
    Sequence other;
    engine.prefill(other, prompt, *policy, options);
    EXPECT_EQ(all.size(), prompt.size());
    EXPECT_LT(compare(ends, {all.back()}).mean, 5e-3);
    const auto expected = decoded_logits(engine, sequence, answer);
    auto forked = engine.fork(sequence);
    forked.rewind();
    EXPECT_EQ(decoded_logits(engine, forked, answer), expected);
    Logits followed;
    engine.follow(other, answer, [&](int64_t, std::span<const float> logits) {
      followed.emplace_back(logits.begin(), logits.end());
    });
    EXPECT_LT(compare(followed, expected).mean, 5e-3);
  }
}

TEST_P(LayersThatDiffer, PromptsThatShareChunksAnswerAsAlone) {
  Engine engine(*model, {.chunk = 512});
  const auto policy = windowkv_policy(Budget::tokens(60), SelectionConfig{});
  std::vector<Sequence> together(3), alone(3);
  std::vector<PrefillRequest> requests;
  const size_t lengths[] = {70, 200, 1};
  for (size_t i = 0; i < 3; ++i)
    requests.push_back({&together[i], std::span(prompt).subspan(i, lengths[i]), policy.get()});
  const auto logits = engine.prefill(requests);
  const auto n = static_cast<ptrdiff_t>(hp.n_vocab);
  Logits got, expected;
  for (ptrdiff_t i = 0; i < 3; ++i) got.emplace_back(logits.begin() + i * n, logits.begin() + (i + 1) * n);
  for (size_t i = 0; i < 3; ++i) {
    const auto last = engine.prefill(alone[i], requests[i].prompt, *policy);
    expected.emplace_back(last.begin(), last.end());
  }
  EXPECT_LT(compare(got, expected).mean, 5e-3);
  for (size_t i = 0; i < 3; ++i)
    EXPECT_LT(
        compare(decoded_logits(engine, together[i], answer), decoded_logits(engine, alone[i], answer)).mean,
        5e-3);
}

TEST_P(LayersThatDiffer, KeepToATotal) {
  Engine engine(*model, {.chunk = 64});
  const auto policy = [&](int64_t total) {
    return make_policy(
        "windowkv",
        {Budget::percent(100), make_config("default", Task::kLocalization, hp.n_full_layers()), 0, total});
  };
  const auto prefilled = [&](const Policy& of) {
    Sequence sequence;
    engine.prefill(sequence, std::span(prompt).first(60), of);
    return sequence;
  };
  // Windows drop what they show no more; of the others no token is missed.
  auto whole = prefilled(*full_policy());
  auto roomy = prefilled(*policy(1000));
  EXPECT_LT(compare(decoded_logits(engine, roomy, answer), decoded_logits(engine, whole, answer)).worst,
            1e-4);
  auto sequence = prefilled(*policy(128));
  decoded_logits(engine, sequence, answer);
  decoded_logits(engine, sequence, answer);
  EXPECT_GT(sequence.evictions.count, 1);
  for (int layer = 0; layer < hp.n_layer; ++layer)
    EXPECT_LE(sequence.cache->layer(layer).rows.capacity(), hp.shares(layer)   ? 0
                                                            : hp.slides(layer) ? GetParam().window + 64 + 8
                                                                               : 128);
}

// Rows of which some are multiples of the others, and rows of which neither is.
INSTANTIATE_TEST_SUITE_P(Sizes, LayersThatDiffer,
                         testing::Values(Sizes{64, 32}, Sizes{96, 32}, Sizes{32, 64}, Sizes{64, 32, 5},
                                         Sizes{96, 32, 2}, Sizes{32, 64, 3, 1000}),
                         [](const auto& test) { return test.param.name(); });

}  // namespace
}  // namespace windowkv::test
