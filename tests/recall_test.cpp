// Choosing again while decoding: what plain loops choose from the same queries and keys.
#include "engine/recall.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "cache/kv_cache.h"
#include "cache/prefix_parts.h"
#include "support/models.h"
#include "support/outcomes.h"
#include "support/plain_attention.h"
#include "support/reference.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"
#include "windowkv/generate.h"

namespace windowkv::test {
namespace {

std::string model_path(const std::string& family) {
  auto m = eight_layers();
  m.family = family;
  m.type = GGML_TYPE_F32;
  m.llama3_rope_freqs = family == "llama";
  return random_model_path("recall_" + family, m);
}

class Recalled : public ::testing::TestWithParam<const char*> {
 protected:
  static constexpr int64_t kPrompt = 300;

  std::unique_ptr<Model> model = load(model_path(GetParam()));
  const HParams& hp = model->hparams();
  Engine engine{*model, {.chunk = 128}};
  std::vector<Token> prompt = random_tokens(kPrompt, hp.n_vocab);
  std::vector<Token> answer = random_tokens(80, hp.n_vocab, 2);
  PrefixStore store = make();

  PrefixStore make(KvType type = KvType::kF16) const { return PrefixStore(*model, {.types = {type, type}}); }

  Sequence prefilled(const Policy& policy, PrefixStore& from) {
    Sequence sequence;
    PrefillOptions options;
    options.store = &from;
    engine.prefill(sequence, prompt, policy, options);
    return sequence;
  }

  /// What prompts of these lengths leave, each the beginning of the next.
  PrefixStore stored(std::initializer_list<size_t> lengths) {
    auto parts = make();
    const auto full = full_policy();
    for (const size_t n : lengths) {
      Sequence sequence;
      PrefillOptions options;
      options.store = &parts;
      engine.prefill(sequence, std::span(prompt).first(n), *full, options);
    }
    return parts;
  }

  Logits decoded(Sequence& sequence, size_t count) {
    return decoded_logits(engine, sequence, std::span(answer).first(count));
  }

  /// What TOVA keeps of the prompt and of as many generated tokens as are chosen among: the last token, and
  /// those with the highest mean attention over heads of the last token's queries; ascending.
  std::vector<int32_t> highest(Sequence& sequence, const PrefixStore& from, int layer, size_t budget) {
    const auto q = floats_of(sequence.recall->queries().of(layer));
    const auto stored = floats_of(from.parts().all().front().block->k(layer));
    const int64_t generated = sequence.cache->chosen != nullptr ? sequence.recall->rows(layer).newest : 0;
    const auto n = static_cast<size_t>(kPrompt + generated);
    const auto cached =
        generated > 0 ? floats_of(sequence.cache->layer(layer).rows.k()) : std::vector<float>();
    const auto d = static_cast<size_t>(hp.d_head);
    auto key = [&](size_t token, size_t kv_head) {
      return token < static_cast<size_t>(kPrompt)
                 ? &stored[(kv_head * static_cast<size_t>(kPrompt) + token) * d]
                 : &cached[(token - static_cast<size_t>(kPrompt)) * static_cast<size_t>(hp.kv_row()) +
                           kv_head * d];
    };
    auto received = attention_of(hp, q, n, key);
    received.pop_back();
    auto tokens = highest_of(received, budget - 1);
    tokens.push_back(static_cast<int32_t>(n - 1));
    return tokens;
  }

  /// Prompt tokens that the sequence attends to, in the first KV head; ascending. In the store, or by their
  /// K, copies of which are the first rows of its cache.
  std::vector<int32_t> held(Sequence& sequence, const PrefixStore& from, int layer) {
    if (sequence.cache->chosen != nullptr) return sequence.recall->rows(layer).stored.front();
    const auto& cached = sequence.cache->layer(layer);
    const auto rows = floats_of(cached.rows.k());
    const auto keys = floats_of(from.parts().all().front().block->k(layer));
    const auto d = static_cast<size_t>(hp.d_head), row = static_cast<size_t>(hp.kv_row());
    // A copy of a quantized key is rounded, as the device does that.
    auto equal = [](float a, float b) { return std::abs(a - b) <= 2e-3f * std::abs(a); };
    std::vector<int32_t> tokens;
    for (int64_t r = 0; r < sequence.kept[static_cast<size_t>(layer)]; ++r)
      for (size_t token = 0; token < static_cast<size_t>(kPrompt); ++token)
        if (std::equal(keys.begin() + static_cast<ptrdiff_t>(token * d),
                       keys.begin() + static_cast<ptrdiff_t>((token + 1) * d),
                       rows.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(r) * row), equal))
          tokens.push_back(static_cast<int32_t>(token));
    std::ranges::sort(tokens);
    return tokens;
  }
};

TEST_P(Recalled, HoldsWhatPlainLoopsChoose) {
  const auto policy = make_policy("tova", {Budget::tokens(40), {}, 1});
  auto sequence = prefilled(*policy, store);
  ASSERT_NE(sequence.recall, nullptr);
  for (int step = 0; step < 3; ++step) {
    engine.decode(sequence, answer[static_cast<size_t>(step)]);
    for (const int layer : hp.full_layers())
      EXPECT_EQ(held(sequence, store, layer), highest(sequence, store, layer, 40))
          << "step " << step << " layer " << layer;
  }
  EXPECT_EQ(sequence.recalls.count, 3);
}

TEST_P(Recalled, ChoosesEveryNthToken) {
  const auto once = make_policy("tova", {Budget::tokens(40), {}});
  const auto third = make_policy("tova", {Budget::tokens(40), {}, 3});
  prefilled(*once, store);  // from here on all read the same
  auto a = prefilled(*once, store);
  auto b = prefilled(*third, store);
  const auto as = decoded(a, 7), bs = decoded(b, 7);
  // The same rows before the first choice, read in other parts.
  for (size_t i = 0; i < 3; ++i) EXPECT_LT(relative_error(bs[i], as[i]), 1e-4 * device_rounding()) << i;
  EXPECT_GT(relative_error(bs[3], as[3]), 1e-2);
  EXPECT_EQ(b.recalls.count, 2);
  EXPECT_EQ(a.recall, nullptr);
}

TEST_P(Recalled, EveryPolicyKeepsItsBudget) {
  for (const auto& name : policy_names()) {
    SCOPED_TRACE(name);
    for (const auto* preset : {"default", "paper"}) {
      const PolicyOptions options{Budget::tokens(64), make_config(preset, Task::kLocalization, hp.n_layer),
                                  1};
      if (name == "h2o" || name == "criticalkv" || name == "expected-attention" || name == "kvzip" ||
          name == "laq" || name == "r-kv" || name == "triattention" || name.ends_with("defensivekv")) {
        EXPECT_THROW(make_policy(name, options), Error);
        continue;
      }
      if (name == "adakv" && !Recall::in_place(model->loaded())) continue;
      const auto policy = make_policy(name, options);
      auto sequence = prefilled(*policy, store);
      const auto kept = sequence.kept;
      decoded(sequence, 5);
      for (const int layer : hp.full_layers()) {
        const int64_t cached = sequence.cache->layer(layer).length;
        if (sequence.cache->chosen == nullptr) {
          EXPECT_EQ(cached, kept[static_cast<size_t>(layer)] + 5);
          continue;
        }
        EXPECT_EQ(cached, 5);
        for (const auto& list : sequence.recall->rows(layer).stored)
          if (name != "adakv") {
            EXPECT_LE(static_cast<int64_t>(list.size()), kept[static_cast<size_t>(layer)] + 16);  // a window
          }
      }
      EXPECT_EQ(sequence.recall != nullptr, name != "full" && name != "streaming-llm" && name != "random");
    }
  }
}

TEST_P(Recalled, ReadsHeadsThatKeepDifferentNumbersAsTheirCopies) {
  if (!Recall::in_place(model->loaded())) GTEST_SKIP() << "elsewhere they are not chosen again";
  const PolicyOptions options{Budget::tokens(64), {}, 1000};  // not again within this answer
  auto stored = prefilled(*make_policy("adakv", options), store);
  const auto read = decoded(stored, 20);
  Sequence copied;
  engine.prefill(copied, prompt, *make_policy("adakv", {Budget::tokens(64), {}}));
  EXPECT_EQ(stored.kept, copied.kept);
  EXPECT_EQ(stored.bytes.kept, copied.bytes.kept);
  EXPECT_LT(compare(decoded(copied, 20), read).worst, 1e-4);
}

// The last window of a grid is shorter: with it a choice has fewer tokens.
TEST_P(Recalled, TakesChoicesThatDifferInSize) {
  const auto policy = make_policy("chunkkv", {Budget::tokens(64), {}, 1});
  auto sequence = prefilled(*policy, store);
  for (int step = 0; step < 20; ++step) {
    engine.decode(sequence, answer[static_cast<size_t>(step)]);
    for (const int layer : hp.full_layers()) {
      const auto tokens = held(sequence, store, layer);
      const auto kept = static_cast<size_t>(sequence.kept[static_cast<size_t>(layer)]);
      if (sequence.cache->chosen == nullptr)
        ASSERT_EQ(tokens.size(), kept) << "step " << step << " layer " << layer;
      else
        ASSERT_LE(tokens.size(), kept + 16) << "step " << step << " layer " << layer;
      ASSERT_EQ(std::ranges::adjacent_find(tokens), tokens.end());
    }
  }
}

TEST_P(Recalled, NothingIsChosenWhereNothingIsDropped) {
  const auto policy = make_policy(
      "windowkv", {Budget::parse("12%:1024"), make_config("default", Task::kLocalization, hp.n_layer), 1});
  EXPECT_EQ(prefilled(*policy, store).recall, nullptr);
}

TEST_P(Recalled, NeedsAStore) {
  const auto policy = make_policy("tova", {Budget::tokens(40), {}, 1});
  Sequence sequence;
  EXPECT_THROW(engine.prefill(sequence, prompt, *policy), Error);
  EXPECT_THROW(make_policy("tova", {Budget::tokens(40), {}, -1}), Error);
}

TEST_P(Recalled, RewindsToWhatWasKeptFirst) {
  for (int every : {1, 2}) {
    const auto policy = make_policy("snapkv", {Budget::tokens(60), {}, every});
    auto sequence = prefilled(*policy, store);
    const auto first = decoded(sequence, 6);
    sequence.rewind();
    EXPECT_EQ(compare(decoded(sequence, 6), first).worst, 0) << every;
    sequence.rewind();
    sequence.rewind();
    Logits followed;
    engine.follow(sequence, std::span(answer).first(6),
                  [&](int64_t, std::span<const float> l) { followed.emplace_back(l.begin(), l.end()); });
    EXPECT_EQ(compare(followed, first).worst, 0) << every;
  }
}

TEST_P(Recalled, GoesOnWhenCachesGrow) {
  const auto policy = make_policy("tova", {Budget::tokens(40), {}, 1});
  prefilled(*policy, store);  // from here on all read the same
  auto grown = prefilled(*policy, store);
  Sequence roomy;
  PrefillOptions options;
  options.store = &store;
  options.reserve = 100;
  engine.prefill(roomy, prompt, *policy, options);
  EXPECT_LT(compare(decoded(grown, 80), decoded(roomy, 80)).worst, 1e-3 * device_rounding());
}

TEST_P(Recalled, InABatchAsAlone) {
  const auto one = make_policy("tova", {Budget::tokens(40), {}, 1});
  const auto other = make_policy("snapkv", {Budget::tokens(80), {}, 2});
  const auto plain = make_policy("snapkv", {Budget::tokens(80), {}});
  std::vector<Logits> alone;
  for (const auto* policy : {one.get(), other.get(), plain.get()}) {
    auto sequence = prefilled(*policy, store);
    alone.push_back(decoded(sequence, 8));
  }
  auto a = prefilled(*one, store), b = prefilled(*other, store), c = prefilled(*plain, store);
  std::vector<Logits> together(3);
  for (size_t i = 0; i < 8; ++i) {
    const std::vector<Step> steps = {{&a, answer[i]}, {&b, answer[i]}, {&c, answer[i]}};
    const auto logits = engine.decode(steps);
    const auto vocab = static_cast<size_t>(hp.n_vocab);
    for (size_t s = 0; s < 3; ++s)
      together[s].emplace_back(logits.begin() + static_cast<ptrdiff_t>(s * vocab),
                               logits.begin() + static_cast<ptrdiff_t>((s + 1) * vocab));
  }
  for (size_t s = 0; s < 3; ++s)
    EXPECT_LT(compare(together[s], alone[s]).mean, 1e-2 * device_rounding()) << s;
}

TEST_P(Recalled, ChoosesNearlyTheSameFromQuantizedKeys) {
  const auto policy = make_policy("tova", {Budget::tokens(60), {}, 1});
  auto q8 = make(KvType::kQ8_0);
  auto sequence = prefilled(*policy, q8);
  engine.decode(sequence, answer[0]);
  for (const int layer : hp.full_layers()) {
    const auto tokens = highest(sequence, q8, layer, 60);
    const auto got = held(sequence, q8, layer);
    std::vector<int32_t> both;
    std::ranges::set_intersection(got, tokens, std::back_inserter(both));
    EXPECT_GE(both.size(), 55U) << "layer " << layer;
  }
}

TEST_P(Recalled, FromAStoreOfSeveralParts) {
  const auto policy = make_policy("tova", {Budget::tokens(40), {}, 1});
  auto whole = prefilled(*policy, store);
  const auto expected = decoded(whole, 6);
  auto difference = [&](PrefixStore parts) {
    auto sequence = prefilled(*policy, parts);
    EXPECT_EQ(parts.parts().all().size(), 1U);
    EXPECT_EQ(parts.tokens().size(), prompt.size());
    return compare(decoded(sequence, 6), expected);
  };
  EXPECT_LT(difference(stored({128, 256})).worst, 1e-3 * device_rounding());
  // Borders that are no ends of chunks round differently, which may bring another one of two tokens that
  // score nearly the same.
  EXPECT_LT(difference(stored({100, 180, 260})).mean, 1e-2 * device_rounding());
}

TEST_P(Recalled, SharesABlockThatLacksTheLastTokens) {
  auto document = stored({256});  // where a chunk ends: other borders round differently
  // Of tokens that score nearly the same, rounding may bring windowkv to another one at a step, and more
  // often the longer the answer.
  const std::vector<std::pair<std::shared_ptr<const Policy>, size_t>> cases = {
      {make_policy("tova", {Budget::tokens(40), {}, 2}), 80},
      {make_policy("windowkv",
                   {Budget::tokens(60), make_config("default", Task::kLocalization, hp.n_layer), 1}),
       16}};
  for (const auto& [policy, steps] : cases) {
    auto alone = make();
    auto whole = prefilled(*policy, alone);
    const auto expected = decoded(whole, steps);
    auto question = document.fork();
    auto sequence = prefilled(*policy, question);
    if (!Recall::in_place(model->loaded())) continue;
    ASSERT_EQ(question.parts().all().size(), 2U);
    EXPECT_EQ(question.parts().all().front().block, document.parts().all().front().block);
    EXPECT_EQ(sequence.cache->layer(hp.full_layers().front()).length, 44);
    auto fork = engine.fork(sequence);
    const auto expect_the_same = [&, steps = steps](Sequence& shared) {
      const auto difference = compare(decoded(shared, steps), expected);
      EXPECT_LT(difference.most, 1e-3 * device_rounding());
      EXPECT_LT(difference.worst, 2e-2 * device_rounding());
    };
    expect_the_same(sequence);
    expect_the_same(fork);
    sequence.rewind();
    expect_the_same(sequence);
  }
}

TEST_P(Recalled, OutlivesItsStoreAndPolicy) {
  Sequence sequence;
  {
    const auto policy = make_policy(
        "windowkv", {Budget::tokens(60), make_config("default", Task::kLocalization, hp.n_layer), 1});
    auto temporary = make();
    sequence = prefilled(*policy, temporary);
  }
  EXPECT_EQ(decoded(sequence, 5).size(), 5U);
}

TEST_P(Recalled, AForkGoesOnAsTheOriginal) {
  for (int every : {1, 3}) {
    const auto policy = make_policy("tova", {Budget::tokens(40), {}, every});
    auto sequence = prefilled(*policy, store);
    decoded(sequence, 4);
    auto copy = engine.fork(sequence);
    ASSERT_NE(copy.recall, nullptr);
    const auto a = decoded(sequence, 6), b = decoded(copy, 6);
    EXPECT_EQ(compare(b, a).worst, 0) << every;
    EXPECT_EQ(copy.recalls.count, sequence.recalls.count);
    sequence.rewind();
    copy.rewind();
    EXPECT_EQ(compare(decoded(copy, 4), decoded(sequence, 4)).worst, 0) << every;
  }
}

// What is chosen among grows with the answer, and its budget does not.
TEST_P(Recalled, LongAnswersStayInTheBudget) {
  const auto policy = make_policy("tova", {Budget::tokens(40), {}, 1});
  auto sequence = prefilled(*policy, store);
  if (sequence.cache->chosen == nullptr) GTEST_SKIP() << "elsewhere generated tokens stay";
  const auto tokens = random_tokens(600, hp.n_vocab, 3);
  bool generated_chosen = false;
  for (size_t i = 0; i < tokens.size(); ++i) {
    engine.decode(sequence, tokens[i]);
    for (const int layer : hp.full_layers()) {
      const auto& rows = sequence.recall->rows(layer);
      const int64_t newest = sequence.cache->layer(layer).length - rows.newest;
      ASSERT_EQ(sequence.cache->layer(layer).length, static_cast<int64_t>(i) + 1);
      ASSERT_LT(newest, 64) << i;
      for (size_t h = 0; h < rows.stored.size(); ++h) {
        ASSERT_EQ(rows.stored[h].size() + rows.cached[h].size(), 40U) << i;
        for (const int32_t row : rows.cached[h]) ASSERT_LT(row, rows.newest);
        generated_chosen = generated_chosen || rows.cached[h].size() > 1;
      }
    }
  }
  EXPECT_TRUE(generated_chosen);
  sequence.rewind();
  EXPECT_EQ(decoded(sequence, 3).size(), 3U);
}

TEST_P(Recalled, ChoosesAmongGeneratedTokensWhatPlainLoopsChoose) {
  const auto policy = make_policy("tova", {Budget::tokens(40), {}, 1});
  auto sequence = prefilled(*policy, store);
  if (sequence.cache->chosen == nullptr) GTEST_SKIP() << "elsewhere generated tokens stay";
  const auto tokens = random_tokens(140, hp.n_vocab, 3);
  for (const Token token : tokens) engine.decode(sequence, token);
  for (const int layer : hp.full_layers()) {
    const auto& rows = sequence.recall->rows(layer);
    EXPECT_EQ(rows.newest, 128);
    auto got = rows.stored.front();
    for (const int32_t row : rows.cached.front()) got.push_back(row + static_cast<int32_t>(kPrompt));
    EXPECT_EQ(got, highest(sequence, store, layer, 40)) << "layer " << layer;
  }
}

// Whose layers all attend, or every fourth.
INSTANTIATE_TEST_SUITE_P(Models, Recalled, testing::Values("llama", "qwen35"),
                         [](const auto& model) { return std::string(model.param); });

}  // namespace
}  // namespace windowkv::test
