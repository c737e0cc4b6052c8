// Prompts that the model repeats behind them (Selector::replay): what is scored, and what stays as it was.
#include <ggml.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "support/models.h"
#include "support/outcomes.h"
#include "support/recorded.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

/// LayerView::replayed by layer: [kv heads][n].
using Seen = std::vector<std::vector<float>>;

/// Keeps everything and hands out LayerView::replayed instead of a choice.
class ReplayProbe final : public Policy {
 public:
  ReplayProbe(Replay replay, Seen& seen) : replay_(replay), seen_(seen) {}
  std::string_view name() const override { return "probe"; }
  std::unique_ptr<Selector> start(const PromptShape& shape) const override {
    return std::make_unique<Keeper>(shape.n, replay_, seen_);
  }

 private:
  class Keeper final : public Selector {
   public:
    Keeper(int64_t n, Replay replay, Seen& seen) : n_(n), replay_(replay), seen_(seen) {}
    int64_t observation() const override { return 0; }
    int64_t capacity(int) const override { return n_; }
    bool decides(int) const override { return true; }
    Replay replay() const override { return replay_; }
    ggml_tensor* build(ggml_context* ctx, std::span<const LayerView> views) const override {
      return ggml_cont(ctx, views.front().replayed);
    }
    KeptTokens choose(int, std::span<const int32_t> picked) override {
      auto& values = seen_.emplace_back(picked.size());
      std::memcpy(values.data(), picked.data(), picked.size_bytes());
      std::vector<int32_t> all(static_cast<size_t>(n_));
      std::iota(all.begin(), all.end(), 0);
      return {all};
    }
    std::vector<GroupSelection> groups() const override { return {}; }

   private:
    int64_t n_;
    Replay replay_;
    Seen& seen_;
  };

  Replay replay_;
  Seen& seen_;
};

std::string model_path() {
  RandomModel m;
  m.n_layer = 3;
  m.n_embd = 128;
  m.n_head = 4;
  m.n_head_kv = 2;
  m.d_head = 32;
  m.n_ff = 192;
  m.n_vocab = 256;
  return random_model_path("replay", m);
}

/// Two of whose layers have rows; the others find the state that the prompt left.
std::string recurrent_path() {
  RandomModel m;
  m.family = "qwen35";
  m.n_layer = 4;
  m.attention_interval = 2;
  return random_model_path("replay_recurrent", m);
}

std::vector<Token> joined(std::vector<Token> a, std::span<const Token> b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// What is repeated of a prompt, and the tokens that pass through the model for it.
using Repetitions = std::vector<std::pair<TokenRange, std::vector<Token>>>;

/// LayerView::replayed, by layer, of plain loops over Q and K of a prefill of the prompt and each repetition.
std::vector<std::vector<double>> by_plain_loops(Engine& engine, const Model& model,
                                                std::span<const Token> prompt,
                                                const Repetitions& repetitions) {
  const auto& hp = model.hparams();
  std::vector<std::vector<double>> out(
      static_cast<size_t>(hp.n_full_layers()),
      std::vector<double>(static_cast<size_t>(hp.n_head_kv) * prompt.size(), 0.0));
  for (const auto& [part, tokens] : repetitions) {
    const auto recorded = record(engine, model, joined({prompt.begin(), prompt.end()}, tokens),
                                 static_cast<int64_t>(tokens.size()));
    for (int layer = 0; layer < hp.n_full_layers(); ++layer)
      for (int head = 0; head < hp.n_head_kv; ++head)
        std::ranges::copy(recorded.replayed(layer, head, part),
                          out[static_cast<size_t>(layer)].begin() +
                              static_cast<ptrdiff_t>(head) * static_cast<ptrdiff_t>(prompt.size()) +
                              part.first);
  }
  return out;
}

/// `above`: so many layers of the model lie below the first of these.
void expect_seen(const Seen& seen, const std::vector<std::vector<double>>& expected, int above = 0) {
  ASSERT_EQ(seen.size(), expected.size());
  for (size_t layer = 0; layer < seen.size(); ++layer) {
    ASSERT_EQ(seen[layer].size(), expected[layer].size());
    double worst = 0;
    for (size_t i = 0; i < expected[layer].size(); ++i)
      worst = std::max(worst, std::abs(seen[layer][i] - expected[layer][i]) / (0.01 + expected[layer][i]));
    // Chunks round differently, and layers add to that.
    EXPECT_LT(worst, (layer == 0 && above == 0 ? 3e-3 : 0.03) * device_rounding()) << "layer " << layer;
  }
}

/// Without instructions.
Repetitions bare_repetitions(std::span<const Token> prompt, int64_t size) {
  Repetitions out;
  const auto n = static_cast<int64_t>(prompt.size());
  for (int64_t first = 0; first < n; first += size) {
    const int64_t end = std::min(n, first + size);
    out.push_back({{first, end}, {prompt.begin() + first, prompt.begin() + end}});
  }
  return out;
}

TEST(Replays, ScoresAreThoseOfAPrefillOfThePromptAndEachRepetition) {
  const Replay replay{.part = 70};
  const auto prompt = random_tokens(150, 256);
  for (auto [path, blas] : {std::pair{model_path(), true},
                            {model_path(), false},
                            {recurrent_path(), true},
                            {recurrent_path(), false}}) {
    SCOPED_TRACE(path);
    const auto model = load(path, 1, blas);
    Engine whole(*model, {512});
    const auto expected = by_plain_loops(whole, *model, prompt, bare_repetitions(prompt, 70));
    for (int chunk : {7, 64, 512}) {
      SCOPED_TRACE(chunk);
      Engine engine(*model, {chunk});
      Seen seen;
      Sequence sequence;
      engine.prefill(sequence, prompt, ReplayProbe(replay, seen));
      expect_seen(seen, expected, model->hparams().full_layers().front());
    }
  }
}

TEST(Replays, APromptsOwnInPromptsThatShareChunks) {
  const auto model = load(model_path());
  Engine engine(*model, {512});
  const auto a = random_tokens(90, 256, 3), b = random_tokens(61, 256, 4), c = random_tokens(20, 256, 5);
  const auto full = full_policy();
  Seen seen_a, seen_c;
  const ReplayProbe probe_a({.part = 40}, seen_a), probe_c({.part = 100}, seen_c);
  std::vector<Sequence> sequences(3);
  const std::vector<PrefillRequest> requests = {
      {&sequences[0], a, &probe_a}, {&sequences[1], b, full.get()}, {&sequences[2], c, &probe_c}};
  engine.prefill(requests);
  expect_seen(seen_a, by_plain_loops(engine, *model, a, bare_repetitions(a, 40)));
  expect_seen(seen_c, by_plain_loops(engine, *model, c, bare_repetitions(c, 100)));
}

TEST(Replays, InstructionsAreTokenizedAndQuoteTheEndOfThePartBefore) {
  const auto model = load(minilong_path("f16"));
  Engine engine(*model, {64});
  const Replay replay{.part = 50, .first = "Say it.", .later = "Go on from", .quoted = 3};
  const auto prompt = random_tokens(110, 4000);
  auto plain = [&](std::string_view text) {
    auto tokens = model->vocab().tokenize(text);
    tokens.erase(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(model->vocab().tokenize("").size()));
    return tokens;
  };
  const auto later = plain("Go on from");
  Seen seen;
  Sequence sequence;
  engine.prefill(sequence, prompt, ReplayProbe(replay, seen));
  auto from = [&](int64_t first, int64_t end) {
    return std::span(prompt).subspan(static_cast<size_t>(first), static_cast<size_t>(end - first));
  };
  expect_seen(seen, by_plain_loops(engine, *model, prompt,
                                   {{{0, 50}, joined(plain("Say it."), from(0, 50))},
                                    {{50, 100}, joined(later, from(47, 100))},
                                    {{100, 110}, joined(later, from(97, 110))}}));
}

TEST(Replays, NothingOfThemStays) {
  const auto model = load(model_path());
  Engine engine(*model, {64});
  const auto prompt = random_tokens(150, 256);
  Seen seen;
  const ReplayProbe probe({.part = 70}, seen);
  PrefixStore store(*model, {.types = {KvType::kF16, KvType::kF16}});
  PrefillOptions options;
  options.reserve = 4;
  int64_t steps = 0, total = 0;
  options.progress = [&](int64_t done, int64_t all) {
    EXPECT_EQ(done, ++steps);
    total = all;
  };
  std::vector<std::vector<float>> logits;
  options.all_logits = [&](int64_t, std::span<const float> l) { logits.emplace_back(l.begin(), l.end()); };
  options.store = &store;
  Sequence repeated, plain;
  engine.prefill(repeated, prompt, probe, options);
  EXPECT_EQ(steps, total);
  EXPECT_EQ(total, 3 * (3 + 2 + 2 + 1));  // chunks of 64: 150, 70, 70 and 10 tokens
  EXPECT_EQ(logits.size(), prompt.size());
  EXPECT_TRUE(std::ranges::equal(store.tokens(), prompt));
  const auto with = std::move(logits);
  logits.clear();
  engine.prefill(plain, prompt, *full_policy(), {.reserve = 4, .all_logits = options.all_logits});
  EXPECT_EQ(with, logits);
  for (Token token : {5, 9}) {
    const auto a = engine.decode(repeated, token);
    const std::vector<float> got(a.begin(), a.end());
    const auto b = engine.decode(plain, token);
    EXPECT_EQ(got, std::vector<float>(b.begin(), b.end()));
  }
}

/// How many tokens of a KV head one keeps and not the other: few, where scores differ by rounding.
size_t number_apart(const Sequence& a, const Sequence& b) {
  const auto kept_a = kept_by_layer(a), kept_b = kept_by_layer(b);
  size_t count = 0;
  for (size_t layer = 0; layer < kept_a.size(); ++layer)
    for (size_t head = 0; head < kept_a[layer].size(); ++head) {
      std::vector<int32_t> apart;
      std::ranges::set_symmetric_difference(kept_a[layer][head], kept_b[layer][head],
                                            std::back_inserter(apart));
      count += apart.size();
    }
  return count;
}

TEST(Replays, APromptFromAStoreIsRepeatedTheSame) {
  const auto model = load(model_path());
  Engine engine(*model, {64});
  const auto prompt = random_tokens(300, 256);
  const auto policy = make_policy("kvzip", {Budget::tokens(60), {}});
  Sequence fresh, first, again;
  engine.prefill(fresh, prompt, *policy);
  PrefixStore store(*model, {.types = {KvType::kF16, KvType::kF16}});
  PrefillOptions options;
  options.store = &store;
  engine.prefill(first, std::span(prompt).first(200), *policy, options);
  engine.prefill(again, prompt, *policy, options);
  EXPECT_EQ(again.reused_tokens, 200);
  EXPECT_LE(number_apart(again, fresh), 4);
  engine.prefill(again, prompt, *policy, options);
  EXPECT_EQ(again.reused_tokens, 299);
  EXPECT_LE(number_apart(again, fresh), 4);
}

TEST(Replays, MemoryIsWhatThePlanSays) {
  for (bool blas : {true, false}) {
    const auto model = load(model_path(), 1, blas);
    for (int chunk : {64, 512}) {
      Engine engine(*model, {chunk});
      const auto prompt = random_tokens(200, 256);
      const auto policy = make_policy("kvzip", {Budget::tokens(60), {}});
      const auto plan = engine.plan(200, *policy, 16);
      Sequence sequence;
      engine.prefill(sequence, prompt, *policy, {.reserve = 16});
      EXPECT_LE(sequence.bytes.peak, plan.peak_kv());
      EXPECT_GT(sequence.bytes.peak, plan.kv_scratch + sequence.bytes.kept);
      EXPECT_EQ(plan.kv_scratch, int64_t{3 * 200 + 400} * model->hparams().kv_layer_bytes_per_token());
      EXPECT_LE(engine.compute_bytes(), plan.compute);
      EXPECT_GT(plan.hidden, engine.plan(200, *full_policy(), 16).hidden);
    }
  }
}

TEST(Replays, PoliciesThatDifferAboutOnePromptAreRefused) {
  const auto model = load(model_path());
  Engine engine(*model);
  Seen seen;
  const ReplayProbe some({.part = 70}, seen), others({.part = 40}, seen);
  const std::vector<const Policy*> policies = {&some, &others};
  std::vector<Sequence> sequences(2);
  EXPECT_THROW(engine.prefill(sequences, random_tokens(100, 256), policies), Error);
  EXPECT_TRUE(seen.empty());
}

TEST(Replays, CancelledBetweenTheirChunks) {
  const auto model = load(model_path());
  Engine engine(*model, {64});
  Seen seen;
  const ReplayProbe probe({.part = 70}, seen);
  PrefillOptions options;
  int asked = 0;
  // Of the embeddings' chunks 3 and 5, of the first layer's 3.
  options.cancelled = [&] { return ++asked > 12; };
  Sequence sequence;
  EXPECT_THROW(engine.prefill(sequence, random_tokens(150, 256), probe, options), Cancelled);
  EXPECT_TRUE(seen.empty());
}

}  // namespace
}  // namespace windowkv::test
