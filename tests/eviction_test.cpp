// Rows dropped while an answer is decoded: beside libllama without the same tokens, what plain loops choose,
// and that the cache never holds more than the total.
#include "engine/eviction.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <complex>
#include <functional>

#include "cache/kv_cache.h"
#include "support/models.h"
#include "support/outcomes.h"
#include "support/plain_attention.h"
#include "support/reference.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

constexpr int64_t kTotal = 128;
constexpr int64_t kRoom = 32;  // a quarter of it
constexpr int64_t kPrompt = 60;

std::string model_path() {
  auto m = eight_layers();
  m.type = GGML_TYPE_F32;
  return random_model_path("eviction", m);
}

std::string sliding_path() {
  RandomModel m;
  m.family = "gemma3";
  m.type = GGML_TYPE_F32;
  m.n_layer = 6;  // the last one sees everything
  m.window = 40;
  return random_model_path("eviction-sliding", m);
}

std::string recurrent_path() {
  RandomModel m;
  m.family = "qwen35";
  m.type = GGML_TYPE_F32;
  m.n_layer = 8;
  return random_model_path("eviction-recurrent", m);
}

std::unique_ptr<Policy> with_total(std::string_view name, int64_t total = kTotal) {
  return make_policy(name, {Budget::percent(100), make_config("default", Task::kLocalization, 8), 0, total});
}

void expect_error(const std::function<void()>& work, const std::string& part) {
  try {
    work();
    ADD_FAILURE() << "no error with " << part;
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

class Evicted : public testing::Test {
 protected:
  explicit Evicted(const std::string& path = model_path()) : model(load(path, 1, /*blas=*/false)) {}

  Sequence prefilled(const Policy& policy, const PrefillOptions& options = {}) {
    Sequence sequence;
    engine.prefill(sequence, std::span(tokens).first(kPrompt), policy, options);
    return sequence;
  }
  std::span<const Token> answer(size_t count) const { return std::span(tokens).subspan(kPrompt, count); }
  Logits decoded(Sequence& sequence, size_t count) { return decoded_logits(engine, sequence, answer(count)); }

  std::unique_ptr<Model> model;
  const HParams& hp = model->hparams();
  Engine engine{*model, {.chunk = 128}};
  std::vector<Token> tokens = random_tokens(kPrompt + 600, hp.n_vocab);
};

class EvictedWindows : public Evicted {
 protected:
  EvictedWindows() : Evicted(sliding_path()) {}
};

class EvictedStates : public Evicted {
 protected:
  EvictedStates() : Evicted(recurrent_path()) {}
};

TEST_F(Evicted, StreamingLlmIsLibllamaWithoutTheDroppedTokens) {
  constexpr size_t kAnswer = 300;
  constexpr int32_t kSinks = 4;
  auto sequence = prefilled(*with_total("streaming-llm"));
  const auto ours = decoded(sequence, kAnswer);
  std::vector<Dropped> dropped;
  for (int64_t held = kTotal; held < kPrompt + static_cast<int64_t>(kAnswer); held += kRoom) {
    const auto first = kSinks + static_cast<int32_t>(held - kTotal);
    dropped.push_back({static_cast<size_t>(held), first, first + static_cast<int32_t>(kRoom)});
  }
  EXPECT_EQ(sequence.evictions.count, std::ssize(dropped));
  auto reference = Reference(model_path());
  const auto all = std::span(tokens).first(kPrompt + kAnswer);
  const auto theirs = [&](bool flash, std::span<const Dropped> without) {
    const auto logits = reference.all_logits(all, 128, kPrompt, flash, {}, without);
    return Logits{logits.begin() + kPrompt, logits.end()};
  };
  const auto exact = theirs(false, dropped);
  const auto d = compare(ours, exact);
  RecordProperty("error", fmt::format("{}", d.worst));
  EXPECT_LT(d.worst, 2e-2);
  EXPECT_LE(d.mean, 1.5 * compare(theirs(true, dropped), exact).mean + 1e-4);
  EXPECT_GT(compare(ours, theirs(false, {})).mean, 10 * d.mean);  // dropping is seen at all
}

TEST_F(Evicted, KeepsWhatPlainLoopsChoose) {
  auto whole = prefilled(*full_policy());
  LastQueries queries(*model->loaded().backends, hp);
  whole.cache->queries = &queries;
  auto sequence = prefilled(*with_total("tova"));
  const auto count = static_cast<size_t>(kTotal - kPrompt);
  decoded(whole, count);
  decoded(sequence, count);
  EXPECT_EQ(sequence.evictions.count, 1);
  const auto row = static_cast<size_t>(hp.kv_row()), d = static_cast<size_t>(hp.d_head);
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    const auto k = floats_of(whole.cache->layer(layer).rows.k());
    const auto v = floats_of(whole.cache->layer(layer).rows.v());
    auto received = attention_of(hp, floats_of(queries.of(layer)), kTotal,
                                 [&](size_t token, size_t head) { return &k[token * row + head * d]; });
    received.back() = 1e9;  // the last token stays
    const auto expected = highest_of(received, static_cast<size_t>(kTotal - kRoom));
    const auto& held = sequence.cache->layer(layer);
    ASSERT_EQ(held.length, kTotal - kRoom);
    const auto held_k = floats_of(held.rows.k()), held_v = floats_of(held.rows.v());
    for (size_t i = 0; i < expected.size(); ++i) {
      const auto from = static_cast<size_t>(expected[i]) * row;
      EXPECT_TRUE(std::equal(&held_k[i * row], &held_k[i * row] + row, &k[from])) << layer << " row " << i;
      EXPECT_TRUE(std::equal(&held_v[i * row], &held_v[i * row] + row, &v[from])) << layer << " row " << i;
    }
  }
}

/// TriAttention's scores of n keys for one query head, from queries q [d] at positions from n - q.size() on:
/// by its definition, on keys and queries before RoPE, which turns pair i of neighbours by omega[i] a
/// position.
std::vector<double> triattention_scores(const std::vector<double>& omega, size_t n,
                                        const std::vector<const float*>& q,
                                        const std::function<const float*(size_t token)>& key) {
  auto before_rope = [&](const float* x, size_t position, size_t pair) {
    return std::complex<double>(x[2 * pair], x[2 * pair + 1]) *
           std::polar(1.0, -static_cast<double>(position) * omega[pair]);
  };
  std::vector<double> scores(n, 0.0);
  for (size_t pair = 0; pair < omega.size(); ++pair) {
    std::complex<double> center;
    double length = 0;
    for (size_t i = 0; i < q.size(); ++i) {
      const auto x = before_rope(q[i], n - q.size() + i, pair) / static_cast<double>(q.size());
      center += x;
      length += std::abs(x);
    }
    for (size_t token = 0; token < n; ++token) {
      const auto k = before_rope(key(token), token, pair);
      for (int i = 0; i < 17; ++i)
        scores[token] += std::abs(center) * std::abs(k) / 17 *
                         std::cos(static_cast<double>(n - token + (size_t{1} << i)) * omega[pair] +
                                  std::arg(center * std::conj(k)));
      scores[token] += (length - std::abs(center)) * std::abs(k);
    }
  }
  double mean = 0, square = 0;
  for (double s : scores) mean += s / static_cast<double>(n);
  for (double s : scores) square += (s - mean) * (s - mean) / static_cast<double>(n);
  for (double& s : scores) s = (s - mean) / std::sqrt(square);
  return scores;
}

TEST_F(Evicted, TriAttentionTakesCentersOfTheNewestQueries) {
  auto whole = prefilled(*full_policy());
  LastQueries queries(*model->loaded().backends, hp);
  whole.cache->queries = &queries;
  auto sequence = prefilled(*with_total("triattention"));
  std::vector<std::vector<std::vector<float>>> newest;  // by token, by layer
  for (const auto token : answer(static_cast<size_t>(kTotal - kPrompt))) {
    engine.decode(whole, token);
    engine.decode(sequence, token);
    auto& layers = newest.emplace_back();
    for (int layer = 0; layer < hp.n_layer; ++layer) layers.push_back(floats_of(queries.of(layer)));
  }
  EXPECT_EQ(sequence.evictions.count, 1);
  const auto d = static_cast<size_t>(hp.d_head), row = static_cast<size_t>(hp.kv_row());
  const auto share = static_cast<size_t>(hp.n_head / hp.n_head_kv);
  std::vector<double> omega;
  for (const float divisor : floats_of(model->loaded().weights.layers[0].rope_freqs))
    omega.push_back(std::pow(hp.rope_base, -2.0 * static_cast<double>(omega.size()) / hp.d_head) / divisor);
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    const auto k = floats_of(whole.cache->layer(layer).rows.k());
    const auto& held = sequence.cache->layer(layer);
    ASSERT_EQ(held.length, kTotal - kRoom);
    const auto held_k = floats_of(held.rows.k());
    for (size_t head = 0; head < static_cast<size_t>(hp.n_head_kv); ++head) {
      std::vector<double> most(static_cast<size_t>(kTotal), -1e9);
      for (size_t i = 0; i < share; ++i) {
        std::vector<const float*> q;
        for (const auto& layers : std::span(newest).last(static_cast<size_t>(kRoom)))
          q.push_back(&layers[static_cast<size_t>(layer)][(head * share + i) * d]);
        const auto scores = triattention_scores(omega, static_cast<size_t>(kTotal), q,
                                                [&](size_t token) { return &k[token * row + head * d]; });
        std::ranges::transform(most, scores, most.begin(), [](double a, double b) { return std::max(a, b); });
      }
      const auto expected = highest_of(most, static_cast<size_t>(kTotal - kRoom));
      for (size_t i = 0; i < expected.size(); ++i) {
        const auto* from = &k[static_cast<size_t>(expected[i]) * row + head * d];
        EXPECT_TRUE(std::equal(from, from + d, &held_k[i * row + head * d])) << layer << " row " << i;
      }
    }
  }
}

TEST_F(Evicted, NeverHoldsMoreThanTheTotal) {
  for (const auto& name : policy_names()) {
    if (name == "full" || !policy_chooses_again(name)) continue;
    SCOPED_TRACE(name);
    std::unique_ptr<Policy> policy;
    Sequence sequence;
    try {
      policy = with_total(name);
      sequence = prefilled(*policy);
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("total"), std::string::npos) << e.what();
      continue;
    }
    const auto logits = decoded(sequence, 400);
    EXPECT_TRUE(std::ranges::all_of(logits.back(), [](float x) { return std::isfinite(x); }));
    EXPECT_GE(sequence.evictions.count, (kPrompt + 400 - kTotal) / kRoom + 1);
    for (int layer = 0; layer < hp.n_layer; ++layer)
      EXPECT_LE(sequence.cache->layer(layer).rows.capacity(), kTotal);
    EXPECT_LE(sequence.bytes.peak - engine.plan(kPrompt, *policy).kv_scratch,
              kTotal * hp.n_layer * hp.kv_layer_bytes_per_token() +
                  kTotal * hp.kv_layer_bytes_per_token());  // a layer twice while it grows
    EXPECT_EQ(sequence.position, kPrompt + 400);
  }
}

TEST_F(Evicted, OtherWaysThroughTheEngineGiveTheSame) {
  const auto policy = with_total("windowkv");
  auto sequence = prefilled(*policy);
  const auto expected = decoded(sequence, 300);

  auto followed = prefilled(*policy);
  Logits logits;
  engine.follow(followed, answer(300),
                [&](int64_t, std::span<const float> l) { logits.emplace_back(l.begin(), l.end()); });
  EXPECT_EQ(logits, expected);

  const auto reserve = PrefillOptions{.reserve = 300};
  const auto plan = engine.plan(kPrompt, *policy, 300);
  EXPECT_EQ(plan.kv_kept + plan.kv_reserve, kTotal * hp.n_layer * hp.kv_layer_bytes_per_token());
  auto pooled_options = reserve;
  pooled_options.pool = engine.make_pool(engine.plan_pool(0, kPrompt, *policy, 300).sequence_bytes);
  auto pooled = prefilled(*policy, pooled_options);
  EXPECT_EQ(decoded(pooled, 300), expected);

  // A fork in the middle, behind which both go on.
  auto first = prefilled(*policy);
  decoded(first, 150);
  auto second = engine.fork(first);
  const auto rest = answer(300).subspan(150);
  const Logits last(expected.begin() + 150, expected.end());
  EXPECT_EQ(decoded_logits(engine, first, rest), last);
  EXPECT_EQ(decoded_logits(engine, second, rest), last);
}

TEST_F(Evicted, CannotReturnToThePromptOnceSomeOfItIsGone) {
  auto sequence = prefilled(*with_total("windowkv"));
  const auto first = decoded(sequence, 30);
  sequence.rewind();
  EXPECT_EQ(decoded(sequence, 30), first);
  decoded(sequence, 100);
  expect_error([&] { sequence.rewind(); }, "cannot return");
}

TEST_F(Evicted, OtherTypesOfCaches) {
  Engine small(*model, {.chunk = 128, .kv = {KvType::kQ8_0, KvType::kQ8_0}});
  const auto policy = with_total("snapkv");
  Sequence sequence;
  small.prefill(sequence, std::span(tokens).first(kPrompt), *policy);
  auto exact = prefilled(*policy);
  // Until the first choice, and behind it: choices from rounded keys may differ.
  const auto d = compare(decoded_logits(small, sequence, answer(80)), decoded(exact, 80));
  EXPECT_LT(d.mean, 0.05);
  EXPECT_EQ(sequence.cache->layer(0).length, exact.cache->layer(0).length);
}

TEST_F(Evicted, LongPromptsAreCutToTheTotalToo) {
  Sequence sequence;
  const auto policy = with_total("windowkv");
  engine.prefill(sequence, std::span(tokens).first(300), *policy);
  for (const auto kept : sequence.kept) EXPECT_EQ(kept, kTotal - kRoom);
  decoded_logits(engine, sequence, std::span(tokens).subspan(300, 200));
  EXPECT_LE(sequence.cache->layer(0).rows.capacity(), kTotal);
}

TEST_F(Evicted, RefusesWhatCannotBe) {
  expect_error([] { with_total("windowkv", 127); }, "128 at least");
  expect_error([] { with_total("windowkv", -1); }, "128 at least");
  expect_error([] { with_total("h2o"); }, "leave the total off");
  expect_error([] { make_policy("windowkv", {Budget(), {}, 2, 256}); }, "set one of them");
  expect_error([] { with_total("full"); }, "drops nothing");
  expect_error([] { with_total("pyramidkv"); }, "different budgets");
  expect_error([] { with_total("adakv"); }, "by KV head");
  SelectionConfig observing;
  observing.alpha = 100;
  observing.windows = Windows::kFree;
  observing.pyramid = Pyramid::kFlat;
  const auto policy = make_policy("windowkv", {Budget(), observing, 0, kTotal});
  expect_error([&] { prefilled(*policy); }, "no room");
}

TEST_F(EvictedStates, RecurrentLayersGoOn) {
  const auto policy = with_total("windowkv");
  auto sequence = prefilled(*policy);
  const auto expected = decoded(sequence, 300);
  EXPECT_GT(sequence.evictions.count, 4);
  EXPECT_TRUE(std::ranges::all_of(expected.back(), [](float x) { return std::isfinite(x); }));
  for (int layer : hp.full_layers()) EXPECT_LE(sequence.cache->layer(layer).rows.capacity(), kTotal);
  auto first = prefilled(*policy);
  decoded(first, 150);
  auto fork = engine.fork(first);
  EXPECT_EQ(decoded_logits(engine, fork, answer(300).subspan(150)),
            Logits(expected.begin() + 150, expected.end()));
}

TEST_F(EvictedWindows, LayersWithAWindowKeepWhatItShows) {
  // The layer that sees everything holds less than the total: no token is missed.
  const auto policy = with_total("windowkv", 1000);
  auto sequence = prefilled(*policy);
  auto whole = prefilled(*full_policy());
  EXPECT_LT(compare(decoded(sequence, 400), decoded(whole, 400)).worst, 1e-5);
  EXPECT_GT(sequence.evictions.count, 4);
  for (int layer = 0; layer < hp.n_layer; ++layer)
    EXPECT_LE(sequence.cache->layer(layer).rows.capacity(), hp.slides(layer) ? 40 + 64 : 1000);
}

TEST_F(EvictedWindows, TheOthersKeepToTheTotal) {
  auto sequence = prefilled(*with_total("windowkv"));
  decoded(sequence, 400);
  for (int layer = 0; layer < hp.n_layer; ++layer)
    EXPECT_LE(sequence.cache->layer(layer).rows.capacity(), hp.slides(layer) ? 40 + 64 : kTotal);
}

}  // namespace
}  // namespace windowkv::test
