// Many known tokens at once behind a prefilled prompt: what decoding them one by one gives.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "support/files.h"
#include "support/models.h"
#include "support/outcomes.h"
#include "support/recorded.h"
#include "support/reference.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

/// As between decode steps of different batches (see batch_test), for the mean over steps; the worst of many
/// steps is larger.
constexpr double kRounding = 1e-2;
constexpr double kQuantizedRounding = 3e-2;

std::string gqa_path() {
  auto m = eight_layers();  // 4 query and 2 KV heads
  m.type = GGML_TYPE_F32;
  return random_model_path("follow", m);
}

Logits decoded(Engine& engine, Sequence& sequence, std::span<const Token> tokens) {
  Logits out;
  for (auto token : tokens) {
    const auto logits = engine.decode(sequence, token);
    out.emplace_back(logits.begin(), logits.end());
  }
  return out;
}

Logits followed(Engine& engine, Sequence& sequence, std::span<const Token> tokens) {
  Logits out;
  engine.follow(sequence, tokens, [&](int64_t index, std::span<const float> logits) {
    EXPECT_EQ(index, static_cast<int64_t>(out.size()));
    out.emplace_back(logits.begin(), logits.end());
  });
  return out;
}

void expect_close(const Logits& got, const Logits& expected, double rounding) {
  ASSERT_EQ(got.size(), expected.size());
  rounding *= device_rounding();
  const auto d = compare(got, expected);
  EXPECT_LT(d.mean, rounding);
  EXPECT_LT(d.worst, 3 * rounding);
}

/// The tokens by decode and by follow behind the same prompt, twice, and one more token after both.
void expect_same(Engine& engine, std::span<const Token> prompt, const Policy& policy,
                 std::span<const Token> tokens, double rounding) {
  Sequence sequence;
  engine.prefill(sequence, prompt, policy);
  const auto expected = decoded(engine, sequence, tokens);
  const auto position = sequence.position;
  const auto next = decoded(engine, sequence, tokens.first(1));
  for (int round = 0; round < 2; ++round) {
    sequence.rewind();
    expect_close(followed(engine, sequence, tokens), expected, rounding);
    EXPECT_EQ(sequence.position, position);
    expect_close(decoded(engine, sequence, tokens.first(1)), next, rounding);
  }
}

TEST(Follow, GivesWhatDecodeGivesUnderEveryPolicy) {
  const auto model = load(gqa_path());
  Engine engine(*model);
  const auto prompt = random_tokens(300, model->hparams().n_vocab);
  const auto tokens = random_tokens(70, model->hparams().n_vocab, 2);
  for (const auto& [name, policy] : policies(8)) {
    SCOPED_TRACE(name);
    expect_same(engine, prompt, *policy, tokens, kRounding);
  }
}

TEST(Follow, WithAndWithoutBlasAndWithThreads) {
  const auto path = minilong_path("f16");
  const auto policy = std::move(policies(6)[1].policy), full = full_policy();
  for (auto [threads, blas] : {std::pair{1, true}, {1, false}, {2, true}}) {
    SCOPED_TRACE(fmt::format("{} threads{}", threads, blas ? ", BLAS" : ""));
    const auto model = load(path, threads, blas);
    Engine engine(*model);
    auto words = model->vocab().tokenize(data_text("sherlock.txt").substr(0, 3000));
    ASSERT_GT(words.size(), 440u);
    for (const auto* p : {policy.get(), full.get()})
      expect_same(engine, std::span(words).first(400), *p, std::span(words).subspan(400, 20), kRounding);
  }
}

/// Every fifth token of the first KV head, every ninth of the second, other ones in each layer; of layer 3
/// the second head keeps the last token alone.
std::vector<KeptTokens> uneven(int n_layer, int64_t n) {
  std::vector<KeptTokens> kept;
  for (int layer = 0; layer < n_layer; ++layer) {
    KeptTokens heads(2);
    for (int head = 0; head < 2; ++head) {
      auto& list = heads[static_cast<size_t>(head)];
      if (layer != 3 || head == 0)
        for (int64_t i = layer; i < n - 1; i += head == 0 ? 5 : 9) list.push_back(static_cast<int32_t>(i));
      list.push_back(static_cast<int32_t>(n - 1));
    }
    kept.push_back(std::move(heads));
  }
  return kept;
}

TEST(Follow, HeadsThatKeepDifferentNumbersOfTokens) {
  const auto prompt = random_tokens(300, 256, 1);
  const auto tokens = random_tokens(200, 256, 2);  // more than caches grow by at first
  Logits first;
  for (bool blas : {true, false}) {
    SCOPED_TRACE(blas ? "BLAS" : "no BLAS");
    const auto model = load(gqa_path(), 1, blas);
    ASSERT_EQ(model->hparams().n_head_kv, 2);
    Engine engine(*model);
    const auto kept = uneven(model->hparams().n_layer, 300);
    const auto policy = fixed_policy(kept);
    expect_same(engine, prompt, *policy, tokens, kRounding);

    Sequence sequence;
    engine.prefill(sequence, prompt, *policy);
    size_t lists = 0;
    for (const auto& layer : kept) lists += layer[0].size() + layer[1].size();
    EXPECT_EQ(sequence.bytes.kept,
              static_cast<int64_t>(lists) * model->hparams().kv_layer_bytes_per_token() / 2);
    const auto alone = decoded(engine, sequence, tokens);
    if (first.empty()) first = alone;
    expect_close(alone, first, kRounding);
    // A fork, and beside others in a batch.
    sequence.rewind();
    auto fork = engine.fork(sequence);
    Sequence full;
    engine.prefill(full, prompt, *full_policy());
    const auto full_alone = decoded(engine, full, std::span(tokens).first(10));
    full.rewind();
    Logits of_fork, of_full;
    for (const Token token : std::span(tokens).first(10)) {
      const std::vector<Step> steps = {{&full, token}, {&fork, token}};
      const auto logits = engine.decode(steps);
      const auto n_vocab = static_cast<size_t>(model->hparams().n_vocab);
      of_full.emplace_back(logits.begin(), logits.begin() + static_cast<ptrdiff_t>(n_vocab));
      of_fork.emplace_back(logits.begin() + static_cast<ptrdiff_t>(n_vocab), logits.end());
    }
    expect_close(of_full, full_alone, kRounding);
    expect_close(of_fork, Logits(alone.begin(), alone.begin() + 10), kRounding);
  }
}

TEST(Follow, BordersOfChunksAndOfBlocksOfLogitsShowNowhere) {
  const auto model = load(gqa_path());
  const auto prompt = random_tokens(100, model->hparams().n_vocab);
  const auto policy = std::move(policies(8)[1].policy);
  for (int chunk : {7, 64, 65}) {
    Engine engine(*model, {.chunk = chunk});
    for (int64_t count : {1, 64, 128, 129, 257}) {
      SCOPED_TRACE(fmt::format("{} tokens, chunks of {}", count, chunk));
      expect_same(engine, prompt, *policy, random_tokens(count, model->hparams().n_vocab, 3), kRounding);
    }
  }
}

TEST(Follow, WritesQuantizedCaches) {
  const auto model = load(minilong_path("q8_0"));
  auto words = model->vocab().tokenize(data_text("sherlock.txt").substr(0, 3000));
  ASSERT_GT(words.size(), 500u);
  const auto policy = std::move(policies(model->hparams().n_layer)[1].policy);
  for (const KvTypes types : {KvTypes{}, KvTypes{KvType::kBf16, KvType::kBf16},
                              KvTypes{KvType::kQ8_0, KvType::kQ8_0}, KvTypes{KvType::kQ8_0, KvType::kQ4_0}}) {
    SCOPED_TRACE(fmt::format("{} {}", to_string(types.k), to_string(types.v)));
    EngineOptions options;
    options.kv = types;
    Engine engine(*model, options);
    expect_same(engine, std::span(words).first(400), *policy, std::span(words).subspan(400, 100),
                kQuantizedRounding);
  }
}

TEST(Follow, InPiecesAndAmongDecodeStepsOfOthers) {
  const auto model = load(gqa_path());
  Engine engine(*model);
  const auto policy = std::move(policies(8)[1].policy);
  const auto tokens = random_tokens(90, model->hparams().n_vocab, 5);
  Sequence sequence, other;
  engine.prefill(sequence, random_tokens(200, model->hparams().n_vocab), *policy);
  engine.prefill(other, random_tokens(150, model->hparams().n_vocab, 9), *full_policy());
  const auto expected = decoded(engine, sequence, tokens);
  const auto other_expected = decoded(engine, other, tokens);
  sequence.rewind();
  other.rewind();
  Logits got, other_got;
  for (size_t first = 0; first < tokens.size(); first += 30) {
    for (auto& logits : followed(engine, sequence, std::span(tokens).subspan(first, 30)))
      got.push_back(std::move(logits));
    for (auto& logits : decoded(engine, other, std::span(tokens).subspan(first, 30)))
      other_got.push_back(std::move(logits));
  }
  expect_close(got, expected, kRounding);
  expect_close(other_got, other_expected, kRounding);
}

TEST(Follow, GivesLlamaCppsLogitsBehindAFullCache) {
  // Both engines take the prompt and then the rest together.
  for (const char* type : {"f16", "q8_0"}) {
    SCOPED_TRACE(type);
    const auto path = minilong_path(type);
    const auto model = load(path, 1, /*blas=*/false);
    Engine engine(*model);
    auto words = model->vocab().tokenize(data_text("sherlock.txt").substr(0, 4000));
    ASSERT_GT(words.size(), 700u);
    words.resize(700);
    Sequence sequence;
    engine.prefill(sequence, std::span(words).first(512), *full_policy());
    const auto ours = followed(engine, sequence, std::span(words).subspan(512));
    const auto theirs = Reference(path).all_logits(words, 512, words.size(), /*flash=*/false);
    const auto d = compare(ours, {theirs.begin() + 512, theirs.end()});
    // Quantized weights round activations, and close logits fall either way: one of 188 is half a percent.
    EXPECT_GE(d.top1, type == std::string("f16") ? 0.98 : 0.97);
    EXPECT_LT(d.worst, test_device() == "cpu" ? 0.02 : 0.06);  // as parity_test.cpp
  }
}

TEST(Follow, RefusesWhatDecodeRefuses) {
  const auto model = load(gqa_path());
  Engine engine(*model);
  const auto ignore = [](int64_t, std::span<const float>) {};
  Sequence sequence;
  EXPECT_THROW(engine.follow(sequence, std::vector<Token>{1}, ignore), Error);
  engine.prefill(sequence, random_tokens(20, model->hparams().n_vocab), *full_policy());
  EXPECT_THROW(engine.follow(sequence, std::vector<Token>{1, -1}, ignore), Error);
  EXPECT_THROW(engine.follow(sequence, std::vector<Token>{model->hparams().n_vocab}, ignore), Error);
  engine.follow(sequence, {}, ignore);
  EXPECT_EQ(sequence.position, 20);
  EngineOptions options;
  options.kv = {KvType::kQ8_0, KvType::kQ8_0};
  EXPECT_THROW(Engine(*model, options).follow(sequence, std::vector<Token>{1}, ignore), Error);
}

}  // namespace
}  // namespace windowkv::test
