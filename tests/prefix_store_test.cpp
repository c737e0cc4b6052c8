// Prompts that begin with what a store holds: what a fresh prefill of the same tokens gives.
#include "windowkv/prefix_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "cache/kv_cache.h"
#include "cache/prefix_parts.h"
#include "support/files.h"
#include "support/models.h"
#include "support/outcomes.h"
#include "support/reference.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

constexpr KvTypes kF16 = {};
/// Chunks that begin elsewhere round otherwise.
const double kRounding = 1e-3 * device_rounding();

std::string model_path() {
  auto m = eight_layers();
  m.type = GGML_TYPE_F32;
  return random_model_path("prefix_store", m);
}

class Store : public ::testing::Test {
 protected:
  std::unique_ptr<Model> model = load(model_path());
  Engine engine{*model, {.chunk = 128}};
  std::vector<Token> document = random_tokens(300, model->hparams().n_vocab);
  std::vector<Token> question = random_tokens(45, model->hparams().n_vocab, 2);
  std::vector<Token> other = random_tokens(20, model->hparams().n_vocab, 3);
  std::unique_ptr<Policy> full = full_policy();

  PrefixStore make(KvTypes types = kF16) const { return PrefixStore(*model, {.types = types}); }
};

TEST_F(Store, HoldsWhatAFullCacheHolds) {
  auto store = make();
  auto a = prefilled(engine, document, *full, &store);
  ASSERT_EQ(store.parts().all().size(), 1U);
  const auto& block = *store.parts().all().front().block;
  const auto& hp = model->hparams();
  const size_t head = static_cast<size_t>(hp.d_head) * sizeof(ggml_fp16_t);
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    const auto& rows = a.sequence.cache->layer(layer).rows;
    for (auto [stored, cached] : {std::pair{block.k(layer), rows.k()}, {block.v(layer), rows.v()}})
      for (int64_t token = 0; token < 300; ++token)
        for (int h = 0; h < hp.n_head_kv; ++h) {
          std::vector<char> want(head), got(head);
          ggml_backend_tensor_get(cached, want.data(),
                                  static_cast<size_t>(token) * cached->nb[1] + static_cast<size_t>(h) * head,
                                  head);
          ggml_backend_tensor_get(
              stored, got.data(),
              static_cast<size_t>(token) * stored->nb[1] + static_cast<size_t>(h) * stored->nb[2], head);
          ASSERT_EQ(got, want) << "layer " << layer << " token " << token << " head " << h;
        }
  }
}

TEST_F(Store, FurtherQuestionsGetTheAnswerOfAFreshPromptUnderEveryPolicy) {
  for (const auto& [name, policy] : policies(8)) {
    SCOPED_TRACE(name);
    auto store = make();
    const auto first = joined(document, question);
    auto filling = prefilled(engine, first, *policy, &store);
    auto unstored = prefilled(engine, first, *policy);
    expect_same(engine, filling, unstored, kRounding);
    EXPECT_EQ(filling.sequence.reused_tokens, 0);
    EXPECT_EQ(store.tokens().size(), first.size());

    const auto second = joined(document, other);
    auto got = prefilled(engine, second, *policy, &store);
    EXPECT_TRUE(std::ranges::equal(store.tokens(), second));
    auto fresh = prefilled(engine, second, *policy);
    if (name == "aggregation") {  // which weighs the queries of what is computed, here the question's alone
      EXPECT_LT(relative_error(got.logits, fresh.logits), kRounding);
      EXPECT_EQ(got.sequence.kept, fresh.sequence.kept);
      continue;
    }
    expect_same(engine, got, fresh, kRounding);
  }
}

TEST_F(Store, ComputesTheObservationWindowAgainAndReadsTheRest) {
  const auto policy = make_policy("snapkv", {Budget::tokens(100), {}});
  const auto observation = policy->start({345, 8, 4, 2, model->hparams().d_head})->observation();
  auto store = make();
  prefilled(engine, document, *policy, &store);
  EXPECT_EQ(prefilled(engine, joined(document, question), *policy, &store).sequence.reused_tokens,
            std::min<int64_t>(300, 345 - observation));
  // Nothing new: the window is all that is computed.
  auto again = prefilled(engine, joined(document, question), *policy, &store);
  EXPECT_EQ(again.sequence.reused_tokens, 345 - observation);
  auto fresh = prefilled(engine, joined(document, question), *policy);
  expect_same(engine, again, fresh, kRounding);
  EXPECT_EQ(prefilled(engine, joined(document, question), *full, &store).sequence.reused_tokens, 344);
}

TEST_F(Store, APolicyThatNeedsAllQueriesReadsNothing) {
  const auto policy = make_policy("h2o", {Budget::tokens(100), {}});
  auto store = make();
  prefilled(engine, document, *policy, &store);
  auto got = prefilled(engine, joined(document, question), *policy, &store);
  EXPECT_EQ(got.sequence.reused_tokens, 0);
  EXPECT_EQ(store.parts().all().size(), 2U);
  auto fresh = prefilled(engine, joined(document, question), *policy);
  expect_same(engine, got, fresh, kRounding);
}

TEST_F(Store, QuantizedTypesAreClose) {
  for (const auto& [types, rounding] : {std::pair{KvTypes{KvType::kQ8_0, KvType::kQ8_0}, 0.03},
                                        {KvTypes{KvType::kBf16, KvType::kBf16}, 0.03},
                                        {KvTypes{KvType::kQ8_0, KvType::kQ4_0}, 0.3}}) {
    auto store = make(types);
    prefilled(engine, document, *full, &store);
    EXPECT_LE(store.bytes(), store.bytes(300) + 64);
    const auto prompt = joined(document, question);
    auto got = prefilled(engine, prompt, *full, &store);
    auto fresh = prefilled(engine, prompt, *full);
    EXPECT_LT(relative_error(got.logits, fresh.logits), rounding) << to_string(types.v);
    EXPECT_GT(relative_error(got.logits, fresh.logits), 0);
  }
}

TEST_F(Store, ManyTurns) {
  auto store = make();
  const auto all = random_tokens(500, model->hparams().n_vocab, 4);
  int64_t n = 40;
  for (; n < 500; n += 3) prefilled(engine, std::span(all).first(static_cast<size_t>(n)), *full, &store);
  EXPECT_EQ(store.parts().all().size(), 154U);
  auto got = prefilled(engine, all, *full, &store);
  auto fresh = prefilled(engine, all, *full);
  expect_same(engine, got, fresh, 5 * kRounding);
}

TEST_F(Store, LongPrefixesAreCopiedInPieces) {
  auto m = eight_layers();
  m.n_layer = 2;
  m.type = GGML_TYPE_F32;
  const auto small = load(random_model_path("prefix_store_small", m));
  Engine fast(*small);
  PrefixStore store(*small, {.types = kF16});
  const auto all = random_tokens(9500, small->hparams().n_vocab, 4);
  const auto policy = make_policy("tova", {Budget::tokens(256), {}});
  prefilled(fast, std::span(all).first(8700), *policy, &store);
  prefilled(fast, std::span(all).first(9400), *policy, &store);
  auto got = prefilled(fast, all, *policy, &store);
  EXPECT_EQ(got.sequence.reused_tokens, 9400);
  auto fresh = prefilled(fast, all, *policy);
  expect_same(fast, got, fresh, kRounding);
}

TEST_F(Store, ForksGoTheirOwnWays) {
  auto store = make();
  prefilled(engine, document, *full, &store);
  auto fork = store.fork();
  EXPECT_EQ(fork.parts().all().front().block, store.parts().all().front().block);
  prefilled(engine, joined(document, question), *full, &store);
  prefilled(engine, joined(std::span(document).first(200), other), *full, &fork);
  EXPECT_EQ(store.tokens().size(), 345U);
  EXPECT_EQ(fork.tokens().size(), 220U);
  for (auto* one : {&store, &fork}) {
    const std::vector<Token> tokens(one->tokens().begin(), one->tokens().end());
    auto got = prefilled(engine, tokens, *full, one);
    EXPECT_EQ(got.sequence.reused_tokens, static_cast<int64_t>(tokens.size()) - 1);
    auto fresh = prefilled(engine, tokens, *full);
    expect_same(engine, got, fresh, kRounding);
  }
}

TEST_F(Store, ForksMayBeUsedInSeveralThreads) {
  auto store = make({KvType::kQ8_0, KvType::kQ8_0});
  prefilled(engine, document, *full, &store);
  auto fork = store.fork();
  const auto ask = [&](PrefixStore& one, std::span<const Token> text) {
    Engine mine(*model);
    for (int turn = 0; turn < 3; ++turn) {
      one.cut(300 - turn);
      prefilled(mine, joined(document, text), *full, &one);
    }
  };
  std::thread thread(ask, std::ref(fork), other);
  ask(store, question);
  thread.join();
  EXPECT_EQ(store.tokens().size(), 345U);
  EXPECT_EQ(fork.tokens().size(), 320U);
}

TEST_F(Store, CutsBack) {
  auto store = make();
  prefilled(engine, document, *full, &store);
  prefilled(engine, joined(document, question), *full, &store);
  store.cut(400);
  EXPECT_EQ(store.tokens().size(), 345U);
  store.cut(320);
  EXPECT_EQ(store.parts().all().size(), 2U);
  const int64_t before = store.bytes();
  store.cut(300);
  EXPECT_LT(store.bytes(), before);
  EXPECT_EQ(store.common_prefix(joined(document, other)), 300);
  EXPECT_EQ(store.common_prefix(std::span(document).first(10)), 10);
  store.cut(-1);
  EXPECT_EQ(store.bytes(), 0);
  EXPECT_EQ(store.common_prefix(document), 0);
}

TEST_F(Store, SharesOnePrefillAmongPolicies) {
  auto store = make();
  prefilled(engine, document, *full, &store);
  const auto snapkv = make_policy("snapkv", {Budget::tokens(100), {}});
  std::vector<Sequence> sequences(2);
  const std::vector<const Policy*> both = {full.get(), snapkv.get()};
  PrefillOptions options;
  options.store = &store;
  const auto prompt = joined(document, question);
  const auto logits = engine.prefill(sequences, prompt, both, options);
  Answer a{std::move(sequences[0]), {logits.begin(), logits.end()}};
  Answer b{std::move(sequences[1]), a.logits};
  EXPECT_GT(b.sequence.reused_tokens, 200);
  auto fresh_a = prefilled(engine, prompt, *full);
  auto fresh_b = prefilled(engine, prompt, *snapkv);
  expect_same(engine, a, fresh_a, kRounding);
  expect_same(engine, b, fresh_b, kRounding);
}

TEST_F(Store, LogitsOfAllComputedPositions) {
  auto store = make();
  prefilled(engine, document, *full, &store);
  const auto prompt = joined(document, question);
  Logits got, fresh;
  std::vector<int64_t> positions;
  Sequence sequence;
  PrefillOptions options;
  options.all_logits = [&](int64_t position, std::span<const float> logits) {
    positions.push_back(position);
    fresh.emplace_back(logits.begin(), logits.end());
  };
  engine.prefill(sequence, prompt, *full, options);
  fresh.erase(fresh.begin(), fresh.begin() + 300);
  positions.clear();
  options.store = &store;
  options.all_logits = [&](int64_t position, std::span<const float> logits) {
    positions.push_back(position);
    got.emplace_back(logits.begin(), logits.end());
  };
  engine.prefill(sequence, prompt, *full, options);
  EXPECT_EQ(positions.front(), 300);
  EXPECT_EQ(positions.back(), 344);
  EXPECT_LT(compare(got, fresh).worst, kRounding);
}

TEST_F(Store, ACancelledPrefillLeavesTheCommonTokens) {
  auto store = make();
  prefilled(engine, joined(document, question), *full, &store);
  Sequence sequence;
  PrefillOptions options;
  options.store = &store;
  int calls = 0;
  options.cancelled = [&] { return ++calls > 3; };
  EXPECT_THROW(engine.prefill(sequence, joined(document, other), *full, options), Cancelled);
  EXPECT_TRUE(std::ranges::equal(store.tokens(), document));
  auto got = prefilled(engine, joined(document, other), *full, &store);
  auto fresh = prefilled(engine, joined(document, other), *full);
  expect_same(engine, got, fresh, kRounding);
}

TEST_F(Store, PlansCountIt) {
  auto store = make();
  const std::vector<const Policy*> one = {full.get()};
  PrefillOptions options;
  const auto without = engine.plan(300, one, options);
  options.store = &store;
  const auto with = engine.plan(300, one, options);
  EXPECT_EQ(with.store, store.bytes(300));
  EXPECT_EQ(with.total(), without.total() + with.store);
  EXPECT_EQ(store.bytes(300), 8 * 300 * model->hparams().kv_layer_bytes_per_token());
}

TEST_F(Store, OfAnotherModelIsRefused) {
  auto m = eight_layers();
  m.n_vocab = 72;
  m.type = GGML_TYPE_F32;
  const auto another = load(random_model_path("prefix_store_other", m));
  PrefixStore store(*another);
  EXPECT_THROW(prefilled(engine, document, *full, &store), Error);
  EXPECT_EQ(store.tokens().size(), 0U);
}

TEST_F(Store, OfManyPromptsIsRefused) {
  auto store = make();
  Sequence sequence;
  const std::vector<PrefillRequest> requests = {{&sequence, document, full.get()}};
  PrefillOptions options;
  options.store = &store;
  EXPECT_THROW(engine.prefill(requests, options), Error);
}

TEST_F(Store, FromAFileGivesTheSameBits) {
  for (const KvTypes types : {kF16, KvTypes{KvType::kQ8_0, KvType::kQ8_0}}) {
    auto store = make(types);
    prefilled(engine, document, *full, &store);
    const auto path = temp_path("bits.prefix");
    store.save(path);
    auto loaded = PrefixStore::load(*model, path);
    const auto prompt = joined(document, question);
    auto before = prefilled(engine, prompt, *full, &store);
    auto after = prefilled(engine, prompt, *full, &loaded);
    EXPECT_EQ(after.sequence.reused_tokens, 300);
    EXPECT_EQ(after.logits, before.logits);
  }
}

TEST_F(Store, LiesInATemporaryFileToo) {
  PrefixStore store(*model, {.types = kF16, .place = PrefixStoreOptions::Place::kTemporaryFile});
  prefilled(engine, document, *full, &store);
  auto got = prefilled(engine, joined(document, question), *full, &store);
  auto fresh = prefilled(engine, joined(document, question), *full);
  expect_same(engine, got, fresh, kRounding);
}

TEST_F(Store, ATemporaryFileThatCannotBeMadeIsReported) {
  const char* old = std::getenv("TMPDIR");
  const std::string before = old != nullptr ? old : "";
  setenv("TMPDIR", "/nowhere", 1);
  PrefixStore store(*model, {.types = kF16, .place = PrefixStoreOptions::Place::kTemporaryFile});
  try {
    prefilled(engine, document, *full, &store);
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("/nowhere"), std::string::npos) << e.what();
  }
  old != nullptr ? setenv("TMPDIR", before.c_str(), 1) : unsetenv("TMPDIR");
}

// The second question's logits beside llama.cpp's, which reads all of the prompt.
TEST(StoreBesideLlamaCpp, GivesItsLogits) {
  Reference reference(model_path());
  const auto model = load(model_path(), 1, /*blas=*/false);
  Engine engine(*model);
  PrefixStore store(*model, {.types = kF16});
  const auto full = full_policy();
  const auto prompt = random_tokens(345, model->hparams().n_vocab);
  prefilled(engine, std::span(prompt).first(300), *full, &store);
  const auto got = prefilled(engine, prompt, *full, &store);
  EXPECT_EQ(got.sequence.reused_tokens, 300);
  const auto theirs = reference.all_logits(prompt, prompt.size(), prompt.size());
  EXPECT_LT(relative_error(got.logits, theirs.back()), 1e-2 * device_rounding());
}

}  // namespace
}  // namespace windowkv::test
