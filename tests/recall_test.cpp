// Choosing again while decoding: what plain loops choose from the same queries and keys.
#include "engine/recall.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cache/kv_cache.h"
#include "cache/prefix_parts.h"
#include "support/models.h"
#include "support/outcomes.h"
#include "support/reference.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"
#include "windowkv/generate.h"

namespace windowkv::test {
namespace {

std::string model_path() {
  auto m = eight_layers();
  m.type = GGML_TYPE_F32;
  return random_model_path("recall", m);
}

std::vector<float> floats_of(ggml_tensor* t) {
  std::vector<float> out(static_cast<size_t>(ggml_nelements(t)));
  if (t->type == GGML_TYPE_F32) {
    ggml_backend_tensor_get(t, out.data(), 0, ggml_nbytes(t));
  } else {
    std::vector<uint8_t> raw(ggml_nbytes(t));
    ggml_backend_tensor_get(t, raw.data(), 0, raw.size());
    ggml_get_type_traits(t->type)->to_float(raw.data(), out.data(), static_cast<int64_t>(out.size()));
  }
  return out;
}

class Recalled : public ::testing::Test {
 protected:
  static constexpr int64_t kPrompt = 300;

  std::unique_ptr<Model> model = load(model_path());
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

  Logits decoded(Sequence& sequence, size_t count) {
    Logits out;
    for (const Token token : std::span(answer).first(count)) {
      const auto logits = engine.decode(sequence, token);
      out.emplace_back(logits.begin(), logits.end());
    }
    return out;
  }

  /// What TOVA keeps: the last token, and those with the highest mean attention over heads and over the rows
  /// in the ring; ascending.
  std::vector<int32_t> highest(Sequence& sequence, const PrefixStore& from, int layer, size_t budget) {
    const auto q = floats_of(sequence.recall->queries().of(layer));
    const auto k = floats_of(from.parts().all().front().block->k(layer));
    const auto rows = static_cast<size_t>(sequence.recall->queries().rows());
    const auto d = static_cast<size_t>(hp.d_head), heads = static_cast<size_t>(hp.n_head);
    const size_t share = heads / static_cast<size_t>(hp.n_head_kv);
    std::vector<double> received(kPrompt, 0);
    for (size_t row = 0; row < rows; ++row)
      for (size_t h = 0; h < heads; ++h) {
        std::vector<double> a(kPrompt);
        for (size_t j = 0; j < a.size(); ++j)
          for (size_t i = 0; i < d; ++i)
            a[j] += static_cast<double>(q[(row * heads + h) * d + i]) *
                    static_cast<double>(k[(h / share * static_cast<size_t>(kPrompt) + j) * d + i]);
        const double top = std::ranges::max(a);
        double sum = 0;
        for (auto& x : a) sum += x = std::exp((x - top) * static_cast<double>(hp.attention_scale));
        for (size_t j = 0; j < a.size(); ++j) received[j] += a[j] / sum;
      }
    std::vector<int32_t> order(kPrompt - 1);
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, std::greater<>(),
                             [&](int32_t j) { return received[static_cast<size_t>(j)]; });
    order.resize(budget - 1);
    order.push_back(kPrompt - 1);
    std::ranges::sort(order);
    return order;
  }

  /// Prompt tokens whose K are rows [0, count) of the sequence's cache, for the first KV head; ascending.
  std::vector<int32_t> held(Sequence& sequence, const PrefixStore& from, int layer) {
    const auto& cached = sequence.cache->layer(layer);
    const auto rows = floats_of(cached.rows.k());
    const auto keys = floats_of(from.parts().all().front().block->k(layer));
    const auto d = static_cast<size_t>(hp.d_head), row = static_cast<size_t>(hp.kv_row());
    std::vector<int32_t> tokens;
    for (int64_t r = 0; r < sequence.kept[static_cast<size_t>(layer)]; ++r)
      for (size_t token = 0; token < static_cast<size_t>(kPrompt); ++token)
        if (std::equal(keys.begin() + static_cast<ptrdiff_t>(token * d),
                       keys.begin() + static_cast<ptrdiff_t>((token + 1) * d),
                       rows.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(r) * row)))
          tokens.push_back(static_cast<int32_t>(token));
    std::ranges::sort(tokens);
    return tokens;
  }
};

TEST_F(Recalled, HoldsWhatPlainLoopsChoose) {
  const auto policy = make_policy("tova", {Budget::tokens(40), {}, 1});
  auto sequence = prefilled(*policy, store);
  ASSERT_NE(sequence.recall, nullptr);
  for (int step = 0; step < 3; ++step) {
    engine.decode(sequence, answer[static_cast<size_t>(step)]);
    for (int layer = 0; layer < hp.n_layer; ++layer)
      EXPECT_EQ(held(sequence, store, layer), highest(sequence, store, layer, 40))
          << "step " << step << " layer " << layer;
  }
  EXPECT_EQ(sequence.recalls.count, 3);
}

TEST_F(Recalled, ChoosesEveryNthToken) {
  const auto once = make_policy("tova", {Budget::tokens(40), {}});
  const auto third = make_policy("tova", {Budget::tokens(40), {}, 3});
  prefilled(*once, store);  // from here on all read the same
  auto a = prefilled(*once, store);
  auto b = prefilled(*third, store);
  const auto as = decoded(a, 7), bs = decoded(b, 7);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(as[i], bs[i]) << i;  // before the first choice
  EXPECT_NE(as[3], bs[3]);
  EXPECT_EQ(b.recalls.count, 2);
  EXPECT_EQ(a.recall, nullptr);
}

TEST_F(Recalled, EveryPolicyKeepsItsBudget) {
  for (const auto& name : policy_names()) {
    SCOPED_TRACE(name);
    for (const auto* preset : {"default", "paper"}) {
      const auto policy =
          make_policy(name, {Budget::tokens(64), make_config(preset, Task::kLocalization, hp.n_layer), 1});
      if (name == "h2o") {
        EXPECT_THROW(prefilled(*policy, store), Error);
        continue;
      }
      auto sequence = prefilled(*policy, store);
      const auto kept = sequence.kept;
      decoded(sequence, 5);
      for (int layer = 0; layer < hp.n_layer; ++layer)
        EXPECT_EQ(sequence.cache->layer(layer).length, kept[static_cast<size_t>(layer)] + 5);
      EXPECT_EQ(sequence.recall != nullptr, name != "full" && name != "streaming-llm" && name != "random");
    }
  }
}

// The last window of a grid is shorter: with it a choice has fewer tokens.
TEST_F(Recalled, KeepsItsRowsWhereChoicesDifferInSize) {
  const auto policy = make_policy("chunkkv", {Budget::tokens(64), {}, 1});
  auto sequence = prefilled(*policy, store);
  for (int step = 0; step < 20; ++step) {
    engine.decode(sequence, answer[static_cast<size_t>(step)]);
    for (int layer = 0; layer < hp.n_layer; ++layer) {
      const auto tokens = held(sequence, store, layer);
      ASSERT_EQ(static_cast<int64_t>(tokens.size()), sequence.kept[static_cast<size_t>(layer)])
          << "step " << step << " layer " << layer;
      ASSERT_EQ(std::ranges::adjacent_find(tokens), tokens.end());
    }
  }
}

TEST_F(Recalled, NothingIsChosenWhereNothingIsDropped) {
  const auto policy = make_policy(
      "windowkv", {Budget::parse("12%:1024"), make_config("default", Task::kLocalization, hp.n_layer), 1});
  EXPECT_EQ(prefilled(*policy, store).recall, nullptr);
}

TEST_F(Recalled, NeedsAStore) {
  const auto policy = make_policy("tova", {Budget::tokens(40), {}, 1});
  Sequence sequence;
  EXPECT_THROW(engine.prefill(sequence, prompt, *policy), Error);
  EXPECT_THROW(make_policy("tova", {Budget::tokens(40), {}, -1}), Error);
}

TEST_F(Recalled, RewindsToWhatWasKeptFirst) {
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

TEST_F(Recalled, GoesOnWhenCachesGrow) {
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

TEST_F(Recalled, InABatchAsAlone) {
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

TEST_F(Recalled, ChoosesNearlyTheSameFromQuantizedKeys) {
  const auto policy = make_policy("tova", {Budget::tokens(60), {}, 1});
  auto q8 = make(KvType::kQ8_0);
  auto sequence = prefilled(*policy, q8);
  engine.decode(sequence, answer[0]);
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    const auto held_values = floats_of(sequence.cache->layer(layer).rows.k());
    const auto keys = floats_of(q8.parts().all().front().block->k(layer));
    const auto row = static_cast<size_t>(hp.kv_row()), d = static_cast<size_t>(hp.d_head);
    size_t found = 0;
    for (const int32_t token : highest(sequence, q8, layer, 60))
      for (size_t r = 0; r < 60; ++r) {
        double off = 0;
        for (size_t i = 0; i < d; ++i)
          off = std::max<double>(
              off, std::abs(held_values[r * row + i] - keys[static_cast<size_t>(token) * d + i]));
        found += off < 1e-2 ? 1 : 0;
      }
    EXPECT_GE(found, 55U) << "layer " << layer;
  }
}

TEST_F(Recalled, FromAStoreOfSeveralParts) {
  const auto policy = make_policy("tova", {Budget::tokens(40), {}, 1});
  auto whole = prefilled(*policy, store);
  const auto expected = decoded(whole, 6);
  auto parts = make();
  const auto full = full_policy();
  for (size_t n : {100, 180, 260}) {
    Sequence sequence;
    PrefillOptions options;
    options.store = &parts;
    engine.prefill(sequence, std::span(prompt).first(n), *full, options);
  }
  auto sequence = prefilled(*policy, parts);
  EXPECT_EQ(parts.parts().all().size(), 1U);
  EXPECT_EQ(parts.tokens().size(), prompt.size());
  EXPECT_LT(compare(decoded(sequence, 6), expected).worst, 1e-3 * device_rounding());
}

TEST_F(Recalled, OutlivesItsStoreAndPolicy) {
  Sequence sequence;
  {
    const auto policy = make_policy(
        "windowkv", {Budget::tokens(60), make_config("default", Task::kLocalization, hp.n_layer), 1});
    auto temporary = make();
    sequence = prefilled(*policy, temporary);
  }
  EXPECT_EQ(decoded(sequence, 5).size(), 5U);
  auto copy = engine.fork(sequence);
  EXPECT_EQ(copy.recall, nullptr);
  EXPECT_EQ(decoded(copy, 2).size(), 2U);
}

}  // namespace
}  // namespace windowkv::test
