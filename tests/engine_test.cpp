// The engine's promises: lossless at full budget, the same answer however the work is cut, memory as planned.
#include "windowkv/engine.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "cache/kv_cache.h"
#include "support/files.h"
#include "support/models.h"
#include "support/reference.h"
#include "windowkv/error.h"
#include "windowkv/generate.h"

namespace windowkv::test {
namespace {

RandomModel five_layers() {
  RandomModel m;
  m.n_layer = 5;
  m.type = GGML_TYPE_F32;
  return m;
}

std::string five_layers_path() {
  return random_model_path("five_layers", five_layers());
}

SelectionConfig small_windows(Pyramid pyramid = Pyramid::kCode) {
  SelectionConfig c;  // ω 8, α 16, p 8
  c.gamma = 2;
  c.pyramid = pyramid;
  return c;
}

std::vector<Token> greedy(Engine& engine, std::span<const Token> prompt, const Policy& policy, int64_t count,
                          int64_t reserve = 0) {
  Sequence sequence;
  PrefillOptions prefill;
  prefill.reserve = reserve;
  const auto logits = engine.prefill(sequence, prompt, policy, prefill);
  GenerateOptions options;
  options.max_tokens = count;
  return generate(engine, nullptr, sequence, logits, prompt, options).tokens;
}

std::vector<std::vector<int32_t>> windows(const Sequence& sequence) {
  std::vector<std::vector<int32_t>> out;
  for (const auto& g : sequence.groups) out.push_back(g.windows);
  return out;
}

struct Prefilled {
  std::vector<float> logits;
  std::vector<std::vector<int32_t>> windows;
  std::vector<int64_t> kept;
};

Prefilled prefill(Engine& engine, std::span<const Token> prompt, const Policy& policy) {
  Sequence sequence;
  const auto logits = engine.prefill(sequence, prompt, policy);
  return {{logits.begin(), logits.end()}, windows(sequence), sequence.kept};
}

TEST(FullBudget, GivesTheTokensOfTheFullCache) {
  const auto model = load(five_layers_path());
  Engine engine(*model);
  for (int64_t n : {1, 5, 16, 17, 100, 333}) {
    const auto prompt = random_tokens(n, model->hparams().n_vocab, static_cast<uint64_t>(n));
    const auto expected = greedy(engine, prompt, *full_policy(), 40);
    for (auto pyramid : {Pyramid::kCode, Pyramid::kPaper, Pyramid::kFlat})
      EXPECT_EQ(greedy(engine, prompt, *windowkv_policy(Budget::percent(100), small_windows(pyramid)), 40),
                expected)
          << n << " tokens, pyramid " << to_string(pyramid);
  }
}

TEST(FullBudget, GivesMiniLongsTextOfTheFullCache) {
  const auto model = load(minilong_path("q8_0"));
  Engine engine(*model);
  const auto prompt = model->vocab().tokenize(data_text("sherlock.txt").substr(0, 3000));
  const auto config = make_config("default", Task::kLocalization, model->hparams().n_layer);
  EXPECT_EQ(greedy(engine, prompt, *windowkv_policy(Budget::percent(100), config), 30),
            greedy(engine, prompt, *full_policy(), 30));
}

TEST(Chunks, SizeDoesNotChangeWhatIsKept) {
  const auto model = load(five_layers_path());
  const int n = 300;
  const auto prompt = random_tokens(n, model->hparams().n_vocab);
  const auto policy = windowkv_policy(Budget::percent(30), small_windows());
  Engine whole(*model, {.chunk = n});
  const auto expected = prefill(whole, prompt, *policy);
  for (int chunk : {1, 7, 64, 512, n - 1, n + 1, 65536}) {
    SCOPED_TRACE(chunk);
    Engine engine(*model, {.chunk = chunk});
    const auto got = prefill(engine, prompt, *policy);
    EXPECT_EQ(got.windows, expected.windows);
    EXPECT_EQ(got.kept, expected.kept);
    // ggml's attention keeps its sums in F16 for few queries and in F32 for many.
    EXPECT_LT(relative_error(got.logits, expected.logits), 1e-2);
  }
}

TEST(Chunks, MayBeOfAnySizeFromStepToStep) {
  const auto model = load(five_layers_path());
  Engine engine(*model, {.chunk = 64});
  const auto prompt = random_tokens(300, model->hparams().n_vocab);
  const auto policy = windowkv_policy(Budget::percent(30), small_windows());
  const auto expected = prefill(engine, prompt, *policy);
  PrefillOptions options;
  int64_t asked = 0, last = 0;
  options.step_tokens = [&](int64_t most) {
    EXPECT_LE(most, 64);
    return std::array<int64_t, 5>{1, 23, 64, 1000, 0}[static_cast<size_t>(asked++) % 5];
  };
  options.progress = [&](int64_t done, int64_t total) {
    EXPECT_EQ(total, 5 * 5);
    EXPECT_GE(done, last);
    last = done;
  };
  Sequence sequence;
  const auto logits = engine.prefill(sequence, prompt, *policy, options);
  EXPECT_EQ(windows(sequence), expected.windows);
  EXPECT_EQ(sequence.kept, expected.kept);
  EXPECT_LT(relative_error({logits.begin(), logits.end()}, expected.logits), 1e-2);
  EXPECT_GT(asked, 25);
  EXPECT_EQ(last, 25);
  // Several prompts in the same chunks.
  std::vector<Sequence> together(2);
  const std::vector<PrefillRequest> requests = {{&together[0], std::span(prompt).first(20), policy.get()},
                                                {&together[1], std::span(prompt).last(40), policy.get()}};
  const auto both = engine.prefill(requests, {.step_tokens = [](int64_t) { return 7; }});
  const std::vector<float> last_logits(both.begin() + std::ssize(both) / 2, both.end());
  const auto alone = prefill(engine, std::span(prompt).last(40), *policy);
  EXPECT_EQ(together[1].kept, alone.kept);
  EXPECT_LT(relative_error(last_logits, alone.logits), 1e-2);
}

TEST(Chunks, ImpossibleSizesAreRefused) {
  const auto model = load(five_layers_path());
  EXPECT_THROW(Engine(*model, {.chunk = 0}), Error);
  EXPECT_THROW(Engine(*model, {.chunk = -5}), Error);
  EXPECT_THROW(Engine(*model, {.chunk = 1 << 20}), Error);
}

TEST(Threads, NumberDoesNotChangeWhatIsKept) {
  const auto path = five_layers_path();
  const auto one = load(path, 1);
  const auto two = load(path, 2);
  const auto prompt = random_tokens(200, one->hparams().n_vocab);
  const auto policy = windowkv_policy(Budget::percent(30), small_windows());
  Engine first(*one);
  Engine second(*two);
  const auto a = prefill(first, prompt, *policy);
  const auto b = prefill(second, prompt, *policy);
  EXPECT_EQ(a.windows, b.windows);
  EXPECT_LT(relative_error(a.logits, b.logits), 1e-4);
}

TEST(Compressed, KeptTokensDecideWhatFollows) {
  // Not a full cache in disguise: a small budget changes the logits after the prompt.
  const auto model = load(five_layers_path());
  Engine engine(*model);
  const auto prompt = random_tokens(300, model->hparams().n_vocab);
  Sequence full;
  Sequence small;
  engine.prefill(full, prompt, *full_policy());
  engine.prefill(small, prompt, *windowkv_policy(Budget::percent(10), small_windows()));
  const auto a = engine.decode(full, 3);
  const std::vector<float> kept(a.begin(), a.end());
  EXPECT_GT(relative_error(engine.decode(small, 3), kept), 1e-3);
}

TEST(Compressed, FirstTokenSeesTheWholePrompt) {
  const auto model = load(five_layers_path());
  Engine engine(*model);
  const auto prompt = random_tokens(300, model->hparams().n_vocab);
  EXPECT_EQ(prefill(engine, prompt, *windowkv_policy(Budget::percent(10), small_windows())).logits,
            prefill(engine, prompt, *full_policy()).logits);
}

TEST(Memory, PeakIsWhatWasPlannedAndOneLayerBeyondWhatIsKept) {
  const auto model = load(five_layers_path());
  const auto& hp = model->hparams();
  Engine engine(*model, {.chunk = 128});
  const int64_t row = hp.kv_layer_bytes_per_token();
  EXPECT_EQ(row, 2 * 2 * hp.d_head * hp.n_head_kv);
  for (int64_t n : {1, 20, 100, 333, 1000})
    for (int64_t reserve : {0, 10})
      for (const char* budget : {"1", "12%", "64", "100%"}) {
        SCOPED_TRACE(fmt::format("n {} reserve {} budget {}", n, reserve, budget));
        const auto policy = windowkv_policy(Budget::parse(budget), small_windows());
        PrefillOptions options;
        options.reserve = reserve;
        Sequence sequence;
        engine.prefill(sequence, random_tokens(n, hp.n_vocab), *policy, options);
        const auto plan = engine.plan(n, *policy, reserve);
        EXPECT_EQ(sequence.bytes.peak, plan.peak_kv());
        EXPECT_EQ(plan.kv_full, n * row * hp.n_layer);
        EXPECT_EQ(sequence.bytes.full, plan.kv_full);
        const int64_t kept = std::accumulate(sequence.kept.begin(), sequence.kept.end(), int64_t{0});
        EXPECT_EQ(sequence.bytes.kept, kept * row);
        EXPECT_LE(sequence.bytes.kept, plan.kv_kept);
        // A short last window leaves at most that much of a buffer unused.
        EXPECT_LE(plan.kv_kept, sequence.bytes.kept + hp.n_layer * 8 * row);
        const bool drops =
            std::any_of(sequence.kept.begin(), sequence.kept.end(), [&](auto k) { return k < n; });
        EXPECT_EQ(plan.kv_scratch, drops ? n * row : 0);
      }
}

TEST(Memory, FullCacheNeedsNoScratch) {
  const auto model = load(five_layers_path());
  Engine engine(*model);
  Sequence sequence;
  engine.prefill(sequence, random_tokens(100, 256), *full_policy());
  EXPECT_EQ(sequence.bytes.peak, sequence.bytes.full);
  EXPECT_EQ(sequence.bytes.kept, sequence.bytes.full);
}

TEST(Memory, OfSeveralPoliciesAtOnceIsWhatWasPlanned) {
  const auto model = load(five_layers_path());
  const int n = 300;
  const auto prompt = random_tokens(n, 256);
  const auto full = full_policy(), all = windowkv_policy(Budget::percent(100), small_windows()),
             few = windowkv_policy(Budget::percent(12), small_windows()),
             some = make_policy("tova", {Budget::percent(30), {}});
  const std::vector<std::vector<const Policy*>> sets = {
      {full.get(), full.get()}, {full.get(), all.get()}, {few.get(), full.get()}, {few.get(), some.get()}};
  for (auto type : {KvType::kF16, KvType::kQ8_0}) {
    RandomModel wide = five_layers();
    wide.d_head = 32;
    const auto blocks = load(random_model_path("five_wide_layers", wide));
    Engine engine(type == KvType::kF16 ? *model : *blocks, {.chunk = 128, .kv = {type, type}});
    for (const auto& set : sets) {
      SCOPED_TRACE(fmt::format("{} {} {}", to_string(type), set[0]->name(), set[1]->name()));
      PrefillOptions options;
      options.reserve = 10;
      std::vector<Sequence> sequences(set.size());
      engine.prefill(sequences, prompt, set, options);
      int64_t peak = 0;
      for (const auto& sequence : sequences) peak += sequence.bytes.peak;
      EXPECT_EQ(peak, engine.plan(n, set, options).peak_kv());
    }
  }
}

TEST(Memory, GrowingHoldsOneLayerTwiceAsPlanned) {
  const auto model = load(five_layers_path());
  Engine engine(*model);
  const int64_t row = model->hparams().kv_layer_bytes_per_token();
  for (int64_t reserve : {0, 10})
    for (const char* budget : {"20%", "100%"}) {
      SCOPED_TRACE(fmt::format("reserve {} budget {}", reserve, budget));
      const auto policy = make_policy("streaming-llm", {Budget::parse(budget), {}});
      PrefillOptions options;
      options.reserve = reserve;
      Sequence sequence;
      engine.prefill(sequence, random_tokens(1000, 256), *policy, options);
      for (int64_t i = 0; i <= reserve; ++i) engine.decode(sequence, 1);
      const auto plan = engine.plan(1000, *policy, reserve);
      const int64_t kept = sequence.kept[0];
      EXPECT_EQ(plan.kv_growth, (5 * 64 + kept + reserve) * row);
      EXPECT_EQ(sequence.cache->meter().peak(),
                plan.kv_kept + plan.kv_reserve + std::max(plan.kv_scratch, plan.kv_growth));
      EXPECT_GE(plan.total(), plan.kv_kept + plan.kv_reserve + plan.kv_growth);
    }
}

TEST(Memory, LogitsOfAllPositionsArePlanned) {
  auto wide = five_layers();
  wide.n_vocab = 20000;
  const auto model = load(random_model_path("wide_vocabulary", wide));
  Engine engine(*model);
  const auto full = full_policy();
  const Policy* const only = full.get();
  PrefillOptions options;
  const auto without = engine.plan(600, std::span(&only, 1), options);
  options.all_logits = [](int64_t, std::span<const float>) {};
  const auto plan = engine.plan(600, std::span(&only, 1), options);
  EXPECT_GT(plan.compute, without.compute);
  Sequence sequence;
  engine.prefill(sequence, random_tokens(600, 20000), *full, options);
  EXPECT_LE(engine.compute_bytes(), plan.compute);
}

TEST(Decode, GrowingTheCacheGivesTheTokensOfALargeReserve) {
  const auto model = load(five_layers_path());
  Engine engine(*model);
  const auto prompt = random_tokens(120, model->hparams().n_vocab);
  for (const char* budget : {"30%", "100%"}) {
    const auto policy = windowkv_policy(Budget::parse(budget), small_windows());
    const auto expected = greedy(engine, prompt, *policy, 250, /*reserve=*/400);
    EXPECT_EQ(greedy(engine, prompt, *policy, 250, 0), expected) << budget;
    EXPECT_EQ(greedy(engine, prompt, *policy, 250, 1), expected) << budget;
    EXPECT_EQ(greedy(engine, prompt, *policy, 250, 63), expected) << budget;
  }
}

TEST(Decode, InterleavedSequencesGiveTheirOwnTokens) {
  const auto model = load(five_layers_path());
  Engine engine(*model);
  const auto policy = windowkv_policy(Budget::percent(30), small_windows());
  const auto full = full_policy();
  struct Run {
    std::vector<Token> prompt;
    const Policy* policy;
    std::vector<Token> alone;
    Sequence sequence;
    std::vector<Token> together;
    Token next = 0;
  };
  std::vector<Run> runs;
  for (auto* p : {policy.get(), policy.get(), full.get()}) {
    auto prompt = random_tokens(100 + 30 * static_cast<int64_t>(runs.size()), 256, runs.size() + 5);
    auto alone = greedy(engine, prompt, *p, 90);
    runs.push_back({std::move(prompt), p, std::move(alone), {}, {}, 0});
  }
  auto top = [](std::span<const float> logits) {
    return static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  };
  for (auto& run : runs) run.next = top(engine.prefill(run.sequence, run.prompt, *run.policy));
  for (int step = 0; step < 90; ++step)
    for (auto& run : runs) {
      run.together.push_back(run.next);
      run.next = top(engine.decode(run.sequence, run.next));
    }
  for (auto& run : runs) EXPECT_EQ(run.together, run.alone);
}

TEST(Decode, SequencesCanBeMovedAndPrefilledAgain) {
  const auto model = load(five_layers_path());
  Engine engine(*model);
  const auto policy = windowkv_policy(Budget::percent(30), small_windows());
  const auto prompt = random_tokens(100, 256);
  const auto expected = greedy(engine, prompt, *policy, 20);
  Sequence first;
  engine.prefill(first, random_tokens(200, 256, 9), *full_policy());
  engine.decode(first, 1);
  const auto logits = engine.prefill(first, prompt, *policy);
  Sequence second = std::move(first);
  GenerateOptions options;
  options.max_tokens = 20;
  EXPECT_EQ(generate(engine, nullptr, second, logits, prompt, options).tokens, expected);
}

TEST(Cancel, ThrowsAndLeavesTheEngineAndTheSequenceUsable) {
  const auto model = load(five_layers_path());
  Engine engine(*model, {.chunk = 32});
  const auto policy = windowkv_policy(Budget::percent(30), small_windows());
  const auto prompt = random_tokens(200, 256);
  const auto expected = greedy(engine, prompt, *policy, 20);
  const int64_t calls = 7 * 6;  // chunks of the embedding and of five layers
  for (int64_t stop : {int64_t{0}, int64_t{1}, int64_t{10}, calls - 1}) {
    SCOPED_TRACE(stop);
    Sequence sequence;
    engine.prefill(sequence, random_tokens(50, 256, 3), *policy);
    int64_t asked = 0;
    PrefillOptions options;
    options.cancelled = [&] { return asked++ == stop; };
    EXPECT_THROW(engine.prefill(sequence, prompt, *policy, options), Cancelled);
    EXPECT_EQ(sequence.prompt_tokens, 50);  // what it held before
    engine.decode(sequence, 1);
    EXPECT_EQ(greedy(engine, prompt, *policy, 20), expected);
  }
}

TEST(Cancel, EndsGeneration) {
  const auto model = load(five_layers_path());
  Engine engine(*model);
  Sequence sequence;
  const auto prompt = random_tokens(20, 256);
  const auto logits = engine.prefill(sequence, prompt, *full_policy());
  GenerateOptions options;
  int asked = 0;
  options.cancelled = [&] { return asked++ == 5; };
  const auto out = generate(engine, nullptr, sequence, logits, prompt, options);
  EXPECT_EQ(out.tokens.size(), 5u);
  EXPECT_EQ(out.reason, StopReason::kCancelled);
}

TEST(Progress, CountsEveryChunkOfEveryLayer) {
  const auto model = load(five_layers_path());
  Engine engine(*model, {.chunk = 32});
  std::vector<int64_t> done;
  PrefillOptions options;
  options.progress = [&](int64_t d, int64_t total) {
    done.push_back(d);
    EXPECT_EQ(total, 5 * 4);
  };
  Sequence sequence;
  engine.prefill(sequence, random_tokens(100, 256), *full_policy(), options);
  std::vector<int64_t> expected(20);
  std::iota(expected.begin(), expected.end(), 1);
  EXPECT_EQ(done, expected);
}

TEST(Refused, EmptyPromptAndIdsOutsideTheVocabulary) {
  const auto model = load(five_layers_path());
  Engine engine(*model);
  Sequence sequence;
  EXPECT_THROW(engine.decode(sequence, 1), Error);
  EXPECT_THROW(engine.prefill(sequence, {}, *full_policy()), Error);
  for (Token bad : {-1, 256, std::numeric_limits<Token>::max(), std::numeric_limits<Token>::min()}) {
    const std::vector<Token> prompt = {1, 2, bad, 3};
    EXPECT_THROW(engine.prefill(sequence, prompt, *full_policy()), Error) << bad;
  }
  engine.prefill(sequence, std::vector<Token>{1, 2}, *full_policy());
  EXPECT_THROW(engine.decode(sequence, 256), Error);
  EXPECT_THROW(engine.decode(sequence, -1), Error);
  EXPECT_EQ(sequence.position, 2);
  EXPECT_EQ(engine.decode(sequence, 255).size(), 256u);
}

TEST(Refused, MoreMemoryThanThereIs) {
  const auto model = load(five_layers_path());
  Engine engine(*model);
  Sequence sequence;
  // The attention of 65,536 queries to 4M tokens: 1 TB a head.
  const std::vector<Token> prompt(4 << 20, 1);
  auto config = small_windows();
  config.alpha = 1 << 16;
  EXPECT_THROW(engine.prefill(sequence, prompt, *windowkv_policy(Budget::percent(12), config)), Error);
  // Room for an answer of 2G tokens.
  PrefillOptions options;
  options.reserve = std::numeric_limits<int32_t>::max();
  EXPECT_THROW(engine.prefill(sequence, std::span(prompt).first(100), *full_policy(), options), Error);
}

TEST(Refused, PlansOfWhatCannotBe) {
  const auto model = load(five_layers_path());
  const Engine engine(*model);
  const auto policy = windowkv_policy(Budget::percent(12), small_windows());
  const Policy* const only = policy.get();
  auto refused = [&](int64_t n, int64_t reserve) {
    PrefillOptions options;
    options.reserve = reserve;
    EXPECT_THROW(engine.plan(n, *policy, reserve), Error) << n << " " << reserve;
    EXPECT_THROW(engine.plan(n, std::span(&only, 1), options), Error) << n << " " << reserve;
    EXPECT_THROW(engine.plan_devices(n, *policy, reserve), Error) << n << " " << reserve;
    EXPECT_THROW(engine.plan_pool(1000, n, *policy, reserve), Error) << n << " " << reserve;
  };
  for (int64_t n : {int64_t{0}, int64_t{-1}, int64_t{1} << 31, std::numeric_limits<int64_t>::max()})
    refused(n, 0);
  for (int64_t reserve : {int64_t{-1}, int64_t{1} << 40}) refused(10, reserve);
  EXPECT_THROW(engine.plan(10, std::span<const Policy* const>()), Error);
  EXPECT_THROW(engine.plan_pool(-1, 10, *policy, 0), Error);
  EXPECT_EQ(engine.plan_pool(0, 10, *policy, 0).sequences, 0);
}

TEST(Refused, MoreTokensThanCanBeScored) {
  const auto model = load(five_layers_path());
  const Engine engine(*model);
  const int64_t most = int64_t{1} << 22;
  for (const char* name : {"windowkv", "snapkv", "tova"}) {
    const auto policy = make_policy(name, {Budget::percent(12), small_windows()});
    EXPECT_GT(engine.plan(most, *policy).kv_kept, 0) << name;
    EXPECT_THROW(engine.plan(most + 1, *policy), Error) << name;
  }
  for (const char* name : {"full", "streaming-llm"})
    EXPECT_GT(engine.plan(most + 1, *make_policy(name, {Budget::percent(12), {}})).kv_kept, 0) << name;
}

TEST(Refused, SequencesAndPoolsOfAnotherModelOrOtherTypes) {
  RandomModel other = five_layers();
  other.seed = 9;
  other.d_head = 32;
  const auto model = load(five_layers_path()), another = load(random_model_path("other_five_layers", other));
  Engine here(*model), there(*another), other_types(*another, {.kv = {KvType::kQ8_0, KvType::kQ8_0}});
  Engine beside(*model, {.chunk = 64});  // of the same model
  Sequence sequence;
  here.prefill(sequence, random_tokens(20, 256), *full_policy());
  Sequence wide;
  there.prefill(wide, random_tokens(20, 256), *full_policy());
  auto refused = [](Engine& engine, Sequence& s) {
    const std::vector<const Sequence*> layers(5, &s);
    const Step step{&s, 1};
    EXPECT_THROW(engine.decode(s, 1), Error);
    EXPECT_THROW(engine.decode_greedy(std::span(&step, 1)), Error);
    EXPECT_THROW(engine.follow(s, std::vector<Token>{1, 2}, [](int64_t, std::span<const float>) {}), Error);
    EXPECT_THROW(engine.fork(s), Error);
    EXPECT_THROW(engine.compose(layers), Error);
    EXPECT_EQ(s.position, 20);
  };
  refused(there, sequence);
  refused(here, wide);
  refused(other_types, wide);
  auto refused_pool = [](Engine& engine, Sequence& s, const KvPool& pool) {
    const std::vector<const Sequence*> layers(5, &s);
    PrefillOptions options;
    options.pool = pool;
    Sequence next;
    EXPECT_THROW(engine.prefill(next, std::vector<Token>{1, 2}, *full_policy(), options), Error);
    EXPECT_THROW(engine.fork(s, pool), Error);
    EXPECT_THROW(engine.compose(layers, pool), Error);
  };
  refused_pool(here, sequence, there.make_pool(1 << 20));
  refused_pool(there, wide, here.make_pool(1 << 20));
  refused_pool(there, wide, other_types.make_pool(1 << 20));
  EXPECT_EQ(beside.decode(sequence, 1).size(), 256u);
  EXPECT_EQ(beside.fork(sequence, here.make_pool(1 << 20)).position, 21);
}

TEST(Refused, ReserveThatCannotBe) {
  const auto model = load(five_layers_path());
  Engine engine(*model);
  Sequence sequence;
  const auto prompt = random_tokens(10, 256);
  for (int64_t reserve : {int64_t{1} << 40, std::numeric_limits<int64_t>::max() / 2, int64_t{-1}}) {
    PrefillOptions options;
    options.reserve = reserve;
    EXPECT_THROW(engine.prefill(sequence, prompt, *full_policy(), options), Error) << reserve;
  }
}

TEST(Refused, ModelWithoutWeights) {
  ModelOptions options;
  options.weights = false;
  const auto model = Model::load(five_layers_path(), options);
  EXPECT_THROW(Engine{*model}, Error);
}

TEST(Models, MappedAndCopiedWeightsGiveTheSameLogits) {
  const auto prompt = random_tokens(50, 256);
  std::vector<std::vector<float>> logits;
  for (bool mmap : {true, false}) {
    ModelOptions options;
    options.device = "cpu";
    options.threads = 1;
    options.mmap = mmap;
    const auto model = Model::load(five_layers_path(), options);
    Engine engine(*model);
    logits.push_back(prefill(engine, prompt, *full_policy()).logits);
  }
  EXPECT_EQ(logits[0], logits[1]);
}

TEST(Models, UnknownDeviceIsRefused) {
  ModelOptions options;
  options.device = "abacus";
  EXPECT_THROW(Model::load(five_layers_path(), options), Error);
}

}  // namespace
}  // namespace windowkv::test
