// Many sequences a step: each gets what it would get alone, wherever its cache lies and whoever decodes
// beside it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <random>
#include <thread>

#include "cache/kv_cache.h"
#include "cache/kv_type.h"
#include "model/loaded_model.h"
#include "support/files.h"
#include "support/models.h"
#include "support/reference.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

std::string model_path() {
  RandomModel m;  // 4 query and 2 KV heads of 32
  m.n_layer = 5;
  m.d_head = 32;
  m.n_embd = 128;
  m.type = GGML_TYPE_F32;
  return random_model_path("batch", m);
}

/// ggml's attention keeps sums in F16 for few queries, and splits the rows of a lone query, not of a batch,
/// over threads; its products of one column and of several are different kernels. So logits differ by
/// rounding, and more where weights are quantized, because activations then are too.
constexpr double kRounding = 1e-2;
constexpr double kQuantizedRounding = 3e-2;

SelectionConfig windows(Pyramid pyramid = Pyramid::kCode) {
  SelectionConfig c;  // ω 8, α 16, p 8
  c.gamma = 2;
  c.pyramid = pyramid;
  return c;
}

Token top(std::span<const float> logits) {
  return static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

/// A prompt and what the engine says to it alone.
struct Case {
  std::vector<Token> prompt;
  std::shared_ptr<const Policy> policy;
  int64_t reserve = 0;
  std::vector<Token> tokens;  ///< tokens[0] comes from prefill
  Logits logits;              ///< logits[i] follow tokens[i]
};

Case alone(Engine& engine, std::vector<Token> prompt, std::unique_ptr<Policy> policy, int64_t steps,
           int64_t reserve = 0) {
  Case c{std::move(prompt), std::move(policy), reserve, {}, {}};
  Sequence sequence;
  PrefillOptions options;
  options.reserve = reserve;
  c.tokens.push_back(top(engine.prefill(sequence, c.prompt, *c.policy, options)));
  for (int64_t i = 0; i < steps; ++i) {
    const auto logits = engine.decode(sequence, c.tokens.back());
    c.logits.emplace_back(logits.begin(), logits.end());
    c.tokens.push_back(top(logits));
  }
  return c;
}

/// The same logits but for rounding, and the same token unless the two best are closer than rounding
/// explains.
void expect_same(std::span<const float> got, std::span<const float> expected, double rounding) {
  EXPECT_LT(relative_error(got, expected), rounding);
  const auto a = static_cast<size_t>(top(got));
  const auto b = static_cast<size_t>(top(expected));
  float worst = 0;
  for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - expected[i]));
  EXPECT_TRUE(a == b || expected[b] - expected[a] <= 2 * worst);
}

/// A case on its way through a batch: fed with the tokens it gave alone.
struct Running {
  const Case* c;
  Sequence sequence;
  size_t next = 0;
  bool done() const { return next == c->logits.size(); }
};

std::unique_ptr<Running> start(Engine& engine, const Case& c, const KvPool& pool = {}) {
  auto running = std::make_unique<Running>(Running{&c, {}, 0});
  PrefillOptions options;
  options.reserve = c.reserve;
  options.pool = pool;
  EXPECT_EQ(top(engine.prefill(running->sequence, c.prompt, *c.policy, options)), c.tokens[0]);
  return running;
}

void step(Engine& engine, std::span<std::unique_ptr<Running>> batch, double rounding = kRounding) {
  std::vector<Step> steps;
  for (auto& r : batch) steps.push_back({&r->sequence, r->c->tokens[r->next]});
  const auto logits = engine.decode(steps);
  const size_t vocab = logits.size() / steps.size();
  for (size_t i = 0; i < batch.size(); ++i) {
    SCOPED_TRACE(fmt::format("sequence {} of {}, token {}", i, batch.size(), batch[i]->next));
    expect_same(logits.subspan(i * vocab, vocab), batch[i]->c->logits[batch[i]->next++], rounding);
  }
}

/// One of each kind: shared and per-head lists, several budgets and pyramids, a full cache; lengths and
/// reserves that differ.
std::vector<Case> mixed_cases(Engine& engine, int n_vocab, int64_t steps) {
  std::vector<Case> cases;
  auto add = [&](int64_t n, std::unique_ptr<Policy> policy, int64_t reserve) {
    cases.push_back(
        alone(engine, random_tokens(n, n_vocab, cases.size() + 3), std::move(policy), steps, reserve));
  };
  add(200, windowkv_policy(Budget::percent(30), windows()), 0);
  add(310, windowkv_policy(Budget::percent(30), windows(Pyramid::kFlat)), 7);
  add(150, full_policy(), 200);
  add(260, make_policy("snapkv", {Budget::percent(20), windows()}), 64);
  add(700, make_policy("streaming-llm", {Budget::tokens(40), windows()}), 0);
  add(1, full_policy(), 0);
  return cases;
}

TEST(Batch, EachSequenceGetsWhatItGetsAlone) {
  struct {
    std::string path;
    int threads;
    double rounding;
  } const models[] = {{model_path(), 1, kRounding},
                      {model_path(), 2, kRounding},
                      {minilong_path("q8_0"), 1, kQuantizedRounding}};
  for (const auto& [path, threads, rounding] : models) {
    SCOPED_TRACE(path);
    const auto model = load(path, threads);
    Engine engine(*model);
    const auto cases = mixed_cases(engine, model->hparams().n_vocab, 80);
    std::vector<std::unique_ptr<Running>> batch;
    for (const auto& c : cases) batch.push_back(start(engine, c));
    while (!batch[0]->done()) step(engine, batch, rounding);
  }
}

TEST(Batch, LongCachesOfEqualLengthShareAnAttention) {
  // Past 512 rows ggml's attention of one sequence takes another way than that of several.
  const auto model = load(minilong_path("q8_0"));
  Engine engine(*model);
  std::vector<Case> cases;
  for (uint64_t i = 0; i < 3; ++i)
    cases.push_back(alone(engine, random_tokens(600, model->hparams().n_vocab, i + 40), full_policy(), 20,
                          /*reserve=*/32));
  const auto pool = engine.make_pool(engine.plan(600, *full_policy(), 32).peak_kv() * 3);
  std::vector<std::unique_ptr<Running>> batch;
  for (const auto& c : cases) batch.push_back(start(engine, c, pool));
  while (!batch[0]->done()) step(engine, batch, kQuantizedRounding);
}

TEST(Batch, SequencesJoinAndLeaveInAPool) {
  const auto model = load(model_path());
  Engine engine(*model);
  const auto cases = mixed_cases(engine, model->hparams().n_vocab, 40);
  const auto pool = engine.make_pool(8 << 20);
  const int64_t all = pool.free_bytes();
  std::mt19937 random(7);
  std::vector<std::unique_ptr<Running>> batch;
  size_t started = 0;
  for (int s = 0; s < 250; ++s) {
    if (batch.size() < 5 && random() % 4 == 0) batch.push_back(start(engine, cases[started++ % 6], pool));
    std::erase_if(batch, [](const auto& r) { return r->done(); });
    std::shuffle(batch.begin(), batch.end(), random);
    // Some wait a turn.
    const auto taking_part = std::min<size_t>(batch.size(), 1 + random() % 5);
    if (taking_part > 0) step(engine, std::span(batch).first(taking_part));
  }
  EXPECT_GT(started, 12u);
  batch.clear();
  EXPECT_EQ(pool.free_bytes(), all);
}

TEST(Batch, RewoundSequencesRepeatThemselves) {
  const auto model = load(model_path());
  Engine engine(*model);
  const auto policy = windowkv_policy(Budget::percent(30), windows());
  std::vector<Sequence> sequences(3);
  std::vector<std::vector<Token>> first(3);
  std::vector<Token> starts;
  for (size_t i = 0; i < 3; ++i)
    starts.push_back(top(
        engine.prefill(sequences[i], random_tokens(100 + 40 * static_cast<int64_t>(i), 256, i), *policy)));
  for (int round = 0; round < 2; ++round) {
    auto next = starts;
    for (int s = 0; s < 70; ++s) {
      std::vector<Step> steps;
      for (size_t i = 0; i < 3; ++i) steps.push_back({&sequences[i], next[i]});
      const auto ids = engine.decode_greedy(steps);
      next.assign(ids.begin(), ids.end());
      for (size_t i = 0; i < 3; ++i) {
        if (round == 0) first[i].push_back(next[i]);
        EXPECT_EQ(next[i], first[i][static_cast<size_t>(s)]) << i << " at " << s;
      }
    }
    for (auto& sequence : sequences) sequence.rewind();
    EXPECT_EQ(sequences[1].position, 140);
  }
}

TEST(Batch, GreedyIdsAreTheBestLogits) {
  const auto model = load(model_path());
  Engine engine(*model);
  std::vector<Sequence> a(3);
  std::vector<Sequence> b(3);
  for (size_t i = 0; i < 3; ++i) {
    const auto prompt = random_tokens(90, 256, i + 20);
    engine.prefill(a[i], prompt, *full_policy());
    engine.prefill(b[i], prompt, *full_policy());
  }
  for (Token t = 0; t < 30; ++t) {
    // In an order that is not that of memory.
    const std::vector<Step> left = {{&a[2], t}, {&a[0], t + 1}, {&a[1], t + 2}};
    const std::vector<Step> right = {{&b[2], t}, {&b[0], t + 1}, {&b[1], t + 2}};
    const auto logits = engine.decode(left);
    std::vector<Token> best;
    for (size_t i = 0; i < 3; ++i) best.push_back(top(logits.subspan(i * 256, 256)));
    const auto ids = engine.decode_greedy(right);
    EXPECT_EQ(std::vector(ids.begin(), ids.end()), best);
  }
}

TEST(Batch, GraphsServeAsLongAsTheirShapeHoldsAndThoseWhoTakeAnothersPlace) {
  const auto model = load(model_path());
  Engine engine(*model);
  const auto policy = windowkv_policy(Budget::tokens(96), windows(Pyramid::kFlat));
  const auto plan = engine.plan_pool(1 << 20, 200, *policy, 64);
  ASSERT_GE(plan.sequences, 4);
  const auto pool = engine.make_pool(plan.pool_bytes());
  PrefillOptions options;
  options.reserve = 64;
  options.pool = pool;
  std::vector<Sequence> sequences(4);
  auto join = [&](size_t i, uint64_t seed) {
    sequences[i] = {};
    engine.prefill(sequences[i], random_tokens(200, 256, seed), *policy, options);
  };
  auto decode = [&](int count) {
    for (int s = 0; s < count; ++s) {
      std::vector<Step> steps;
      for (auto& sequence : sequences) steps.push_back({&sequence, 5});
      engine.decode(steps);
    }
  };
  for (size_t i = 0; i < 4; ++i) join(i, i);
  decode(20);
  EXPECT_EQ(engine.graphs_built(), 1);
  join(2, 9);
  decode(10);
  EXPECT_EQ(engine.graphs_built(), 1);
  decode(34);
  EXPECT_LE(engine.graphs_built(), 2);
}

TEST(Batch, DecodesWhileAnotherPromptIsRead) {
  const auto model = load(model_path());
  Engine engine(*model, {.chunk = 32});
  auto decoding =
      alone(engine, random_tokens(150, 256, 1), windowkv_policy(Budget::percent(30), windows()), 30);
  const auto joining =
      alone(engine, random_tokens(200, 256, 2), windowkv_policy(Budget::percent(30), windows()), 10);
  std::vector<std::unique_ptr<Running>> batch;
  batch.push_back(start(engine, decoding));
  auto other = std::make_unique<Running>(Running{&joining, {}, 0});
  PrefillOptions options;
  options.progress = [&](int64_t, int64_t) {
    if (!batch[0]->done()) step(engine, batch);
  };
  EXPECT_EQ(top(engine.prefill(other->sequence, joining.prompt, *joining.policy, options)),
            joining.tokens[0]);
  EXPECT_TRUE(batch[0]->done());
  batch[0] = std::move(other);
  while (!batch[0]->done()) step(engine, batch);
}

TEST(Batch, ForksContinueOnTheirOwn) {
  const auto model = load(model_path());
  Engine engine(*model);
  const auto c =
      alone(engine, random_tokens(150, 256, 1), windowkv_policy(Budget::percent(30), windows()), 40);
  const auto pool = engine.make_pool(1 << 20);
  std::vector<std::unique_ptr<Running>> batch;
  batch.push_back(start(engine, c, pool));
  for (int s = 0; s < 10; ++s) step(engine, batch);
  batch.push_back(std::make_unique<Running>(Running{&c, engine.fork(batch[0]->sequence, pool), 10}));
  batch.push_back(std::make_unique<Running>(Running{&c, engine.fork(batch[0]->sequence), 10}));
  for (int s = 0; s < 20; ++s) step(engine, batch);
  batch.erase(batch.begin());
  while (!batch[0]->done()) step(engine, batch);
  batch[0]->sequence.rewind();
  EXPECT_EQ(batch[0]->sequence.position, 150);
  batch[0]->next = 0;
  step(engine, std::span(batch).first(1));
  EXPECT_THROW(engine.fork(Sequence{}), Error);
}

TEST(Batch, DeepModelsForkGrowAndDecodeApart) {
  // As many layers and lone caches as make the largest graphs.
  RandomModel m;
  m.n_layer = 40;
  const auto model = load(random_model_path("deep", m));
  Engine engine(*model);
  const auto c = alone(engine, random_tokens(40, 256, 1), full_policy(), 3);
  std::vector<std::unique_ptr<Running>> batch;
  batch.push_back(start(engine, c));
  while (batch.size() < 24)
    batch.push_back(std::make_unique<Running>(Running{&c, engine.fork(batch[0]->sequence), 0}));
  while (!batch[0]->done()) step(engine, batch);
}

TEST(Batch, RefusesWhatCannotBeBeforeAnyWork) {
  const auto model = load(model_path());
  Engine engine(*model);
  Sequence a;
  Sequence b;
  Sequence empty;
  engine.prefill(a, random_tokens(20, 256), *full_policy());
  engine.prefill(b, random_tokens(20, 256), *full_policy());
  auto refused = [&](std::vector<Step> steps) {
    EXPECT_THROW(engine.decode(steps), Error);
    EXPECT_THROW(engine.decode_greedy(steps), Error);
    EXPECT_EQ(a.position, 20);
  };
  refused({});
  refused({{&a, 1}, {&a, 2}});
  refused({{&a, 1}, {&empty, 2}});
  refused({{&a, 1}, {nullptr, 2}});
  refused({{&a, 1}, {&b, 256}});
  Engine other(*model, {.kv = {KvType::kQ8_0, KvType::kQ8_0}});
  const std::vector<Step> steps = {{&a, 1}, {&b, 1}};
  EXPECT_THROW(other.decode(steps), Error);
  EXPECT_EQ(engine.decode(steps).size(), 512u);
}

/// Prompts of many lengths and kinds at once; decoding goes on from each.
TEST(PromptBatch, EachGetsWhatItGetsAlone) {
  for (const auto& [blas, chunk] :
       {std::pair{true, 1024}, {true, 300}, {true, 64}, {false, 1024}, {false, 64}}) {
    SCOPED_TRACE(fmt::format("chunk {}{}", chunk, blas ? "" : ", without BLAS"));
    const auto model = load(model_path(), 1, blas);
    const int n_vocab = model->hparams().n_vocab;
    Engine engine(*model, {.chunk = chunk});
    auto cases = mixed_cases(engine, n_vocab, 3);
    cases.push_back(alone(engine, random_tokens(90, n_vocab, 77),
                          make_policy("h2o", {Budget::percent(30), windows()}), 3));
    cases.push_back(alone(engine, random_tokens(40, n_vocab, 78),
                          make_policy("windowkv", {Budget::percent(25), make_config("default", {}, 5)}), 3));
    std::vector<Sequence> alone_again(cases.size()), together(cases.size());
    std::vector<PrefillRequest> requests;
    for (size_t i = 0; i < cases.size(); ++i) {
      engine.prefill(alone_again[i], cases[i].prompt, *cases[i].policy);
      requests.push_back({&together[i], cases[i].prompt, cases[i].policy.get()});
    }
    int64_t calls = 0, last_total = 0;
    PrefillOptions options;
    options.progress = [&](int64_t done, int64_t total) {
      EXPECT_EQ(done, ++calls);
      last_total = total;
    };
    const auto logits = engine.prefill(requests, options);
    EXPECT_EQ(calls, last_total);
    ASSERT_EQ(logits.size(), cases.size() * static_cast<size_t>(n_vocab));
    const std::vector<float> first(logits.begin(), logits.end());
    for (size_t i = 0; i < cases.size(); ++i) {
      SCOPED_TRACE(fmt::format("prompt {}", i));
      EXPECT_EQ(together[i].kept, alone_again[i].kept);
      ASSERT_EQ(together[i].groups.size(), alone_again[i].groups.size());
      for (size_t g = 0; g < together[i].groups.size(); ++g) {
        EXPECT_EQ(together[i].groups[g].kept, alone_again[i].groups[g].kept);
        EXPECT_EQ(together[i].groups[g].kept_by_head, alone_again[i].groups[g].kept_by_head);
      }
      EXPECT_EQ(top(std::span(first).subspan(i * static_cast<size_t>(n_vocab), static_cast<size_t>(n_vocab))),
                cases[i].tokens[0]);
      EXPECT_EQ(together[i].position, static_cast<int64_t>(cases[i].prompt.size()));
      for (size_t step = 0; step < cases[i].logits.size(); ++step)
        expect_same(engine.decode(together[i], cases[i].tokens[step]), cases[i].logits[step], kRounding);
    }
  }
}

TEST(PromptBatch, ShortOnesShareChunks) {
  const auto model = load(model_path());
  Engine engine(*model, {.chunk = 256});
  const auto policy = windowkv_policy(Budget::percent(30), windows());
  auto steps = [&](std::vector<int64_t> lengths) {
    std::vector<std::vector<Token>> prompts;
    std::vector<Sequence> sequences(lengths.size());
    std::vector<PrefillRequest> requests;
    prompts.reserve(lengths.size());
    for (size_t i = 0; i < lengths.size(); ++i) {
      prompts.push_back(random_tokens(lengths[i], model->hparams().n_vocab, i));
      requests.push_back({&sequences[i], prompts[i], policy.get()});
    }
    int64_t calls = 0;
    PrefillOptions options;
    options.progress = [&](int64_t, int64_t) { ++calls; };
    engine.prefill(requests, options);
    return calls / model->hparams().n_layer;
  };
  EXPECT_EQ(steps({64, 64, 64, 64}), 1);
  EXPECT_EQ(steps({64, 64, 64, 65}), 2);
  EXPECT_EQ(steps(std::vector<int64_t>(17, 5)), 2);  // no more than 16 at once
  EXPECT_EQ(steps({600, 20, 20}), 4);                // a long one goes alone
}

TEST(PromptBatch, RefusesWhatCannotBeBeforeAnyWork) {
  const auto model = load(model_path());
  Engine engine(*model);
  const auto policy = full_policy();
  const auto prompt = random_tokens(20, model->hparams().n_vocab, 1);
  const std::vector<Token> none, outside = {model->hparams().n_vocab};
  Sequence a, b;
  const auto prefill = [&](std::vector<PrefillRequest> requests) { engine.prefill(requests); };
  EXPECT_THROW(prefill({}), Error);
  EXPECT_THROW(prefill({{&a, prompt, policy.get()}, {&a, prompt, policy.get()}}), Error);
  EXPECT_THROW(prefill({{&a, prompt, policy.get()}, {nullptr, prompt, policy.get()}}), Error);
  EXPECT_THROW(prefill({{&a, prompt, policy.get()}, {&b, prompt, nullptr}}), Error);
  EXPECT_THROW(prefill({{&a, prompt, policy.get()}, {&b, none, policy.get()}}), Error);
  EXPECT_THROW(prefill({{&a, prompt, policy.get()}, {&b, outside, policy.get()}}), Error);
  EXPECT_EQ(a.cache, nullptr);
}

TEST(PromptBatch, AllMustFitInMemoryTogether) {
  const auto model = load(model_path());
  Engine engine(*model, {.chunk = 4});
  const auto policy = full_policy();
  const auto device = engine.plan_devices(4, *policy).front();
  if (device.available < 0) GTEST_SKIP() << "the device does not know its free memory";
  // Were they not refused, they would take all there is: the system should then end this process.
  std::ofstream("/proc/self/oom_score_adj") << 1000;
  const auto prompt = random_tokens(4, model->hparams().n_vocab);
  std::vector<Sequence> sequences(120);
  std::vector<PrefillRequest> requests;
  for (auto& sequence : sequences) requests.push_back({&sequence, prompt, policy.get()});
  PrefillOptions options;
  options.cancelled = [] { return true; };
  options.reserve =
      device.available / 100 / (kv_token_bytes(model->hparams(), {}) * model->hparams().n_layer);
  auto refusal = [&](size_t count) {
    try {
      engine.prefill(std::span(requests).first(count), options);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_EQ(refusal(1), Cancelled().what());
  EXPECT_NE(refusal(120).find("a batch of 120 prompts of 480 tokens needs"), std::string::npos)
      << refusal(120);
}

TEST(PromptBatch, FullCachesNeedNoScratchAndOthersAsMuchAsTheyAreLong) {
  const auto model = load(model_path());
  Engine engine(*model);
  const auto full = full_policy(), some = windowkv_policy(Budget::percent(30), windows());
  const auto longer = random_tokens(200, 256, 1), shorter = random_tokens(90, 256, 2);
  Sequence a, b, c;
  const std::vector<PrefillRequest> requests = {
      {&a, longer, full.get()}, {&b, shorter, some.get()}, {&c, longer, full.get()}};
  engine.prefill(requests);
  EXPECT_EQ(a.bytes.peak + b.bytes.peak + c.bytes.peak,
            2 * engine.plan(200, *full).peak_kv() + engine.plan(90, *some).peak_kv());
}

TEST(PromptBatch, SaysWhichFindNoRoomInThePoolBeforeAnyWork) {
  const auto model = load(model_path());
  Engine engine(*model, {.chunk = 64});
  const auto policy = full_policy();
  const auto large = random_tokens(60, 256, 1), small = random_tokens(10, 256, 2);
  const auto bytes = [&](int64_t n) { return engine.plan_pool(0, n, *policy, 4).sequence_bytes; };
  const auto pool = engine.make_pool(bytes(60) + bytes(10));
  const int64_t all = pool.free_bytes();
  std::vector<Sequence> s(4);
  std::vector<PrefillRequest> requests = {{s.data(), large, policy.get()},
                                          {&s[1], large, policy.get()},
                                          {&s[2], small, policy.get()},
                                          {&s[3], small, policy.get()}};
  PrefillOptions options;
  options.reserve = 4;
  options.pool = pool;
  options.progress = [](int64_t, int64_t) { FAIL() << "nothing should be computed"; };
  try {
    engine.prefill(requests, options);
    FAIL() << "there is no room for all";
  } catch (const PoolFull& e) {
    EXPECT_EQ(e.indices(), (std::vector<size_t>{1, 3}));
  }
  EXPECT_EQ(s[0].cache, nullptr);
  EXPECT_EQ(pool.free_bytes(), all);
  options.progress = nullptr;
  requests.erase(requests.begin() + 3);
  requests.erase(requests.begin() + 1);
  EXPECT_EQ(engine.prefill(requests, options).size(), 512u);
}

TEST(Pool, HoldsAsManySequencesAsPlanned) {
  const auto model = load(model_path());
  Engine engine(*model);
  const int64_t row = kv_token_bytes(model->hparams(), {});
  for (const char* budget : {"12%", "100%"}) {
    const auto policy = windowkv_policy(Budget::parse(budget), windows());
    const auto plan = engine.plan_pool(2 << 20, 300, *policy, 16);
    const auto memory = engine.plan(300, *policy, 16);
    EXPECT_EQ(plan.scratch_bytes, memory.kv_scratch);
    EXPECT_EQ(plan.sequence_bytes, memory.kv_kept + memory.kv_reserve);
    EXPECT_LE(plan.pool_bytes() + plan.scratch_bytes, 2 << 20);
    EXPECT_GT(plan.pool_bytes() + plan.scratch_bytes, (2 << 20) - plan.sequence_bytes);
    const auto pool = engine.make_pool(plan.pool_bytes());
    EXPECT_EQ(pool.bytes(), plan.pool_bytes());
    PrefillOptions options;
    options.reserve = 16;
    options.pool = pool;
    std::vector<Sequence> sequences(static_cast<size_t>(plan.sequences));
    for (auto& sequence : sequences) {
      EXPECT_TRUE(pool.fits(plan.sequence_bytes));
      engine.prefill(sequence, random_tokens(300, 256), *policy, options);
      EXPECT_EQ(sequence.bytes.peak, memory.peak_kv());
    }
    EXPECT_LT(pool.free_bytes(), row);
    EXPECT_FALSE(pool.fits(row));
    Sequence more;
    EXPECT_THROW(engine.prefill(more, random_tokens(300, 256), *policy, options), Error);
    sequences.pop_back();
    EXPECT_TRUE(pool.fits(plan.sequence_bytes));
    engine.prefill(more, random_tokens(300, 256), *policy, options);
  }
  EXPECT_EQ(engine.plan_pool(1000, 300, *full_policy(), 0).sequences, 0);
  EXPECT_THROW(engine.make_pool(0), Error);
  EXPECT_THROW(engine.make_pool(int64_t{1} << 60), Error);
}

TEST(Pool, HasSequencesInSeveralTensorsWhereADeviceTakesNoLargerOnes) {
  const auto model = load(model_path());
  const auto& hp = model->hparams();
  Engine engine(*model);
  std::vector<Case> cases;
  for (uint64_t i = 0; i < 3; ++i)
    cases.push_back(
        alone(engine, random_tokens(200, 256, i + 1), windowkv_policy(Budget::percent(30), windows()), 20));
  const int64_t unit = kv_row_bytes({}, hp.kv_unit());
  const int64_t units = engine.plan_pool(0, 200, *cases[0].policy, 20).sequence_bytes / unit;
  // K and V apart: tensors of three fifths of a sequence, so that each but the first lies in two.
  const int64_t most = (units * 3 / 5 + KvArena::kAttentionStep * hp.common_units()) * unit / 2;
  const KvPool pool(std::make_shared<KvMemory>(*model->loaded().backends, hp, KvTypes{},
                                               std::vector<int64_t>{4 * units}, most));
  EXPECT_GE(pool.memory()->on(0).size(), 6U);
  PrefillOptions options;
  options.pool = pool;
  options.reserve = 20;
  std::vector<Sequence> sequences(3);
  std::vector<Step> steps;
  for (size_t i = 0; i < 3; ++i) {
    const auto logits = engine.prefill(sequences[i], cases[i].prompt, *cases[i].policy, options);
    steps.push_back({&sequences[i], top(logits)});
    EXPECT_EQ(steps[i].token, cases[i].tokens[0]);
  }
  for (size_t step = 1; step <= 20; ++step) {
    const auto ids = engine.decode_greedy(steps);
    for (size_t i = 0; i < 3; ++i) {
      steps[i].token = ids[i];
      EXPECT_EQ(ids[i], cases[i].tokens[step]) << i << " " << step;
    }
  }
  sequences.clear();
  EXPECT_EQ(pool.free_bytes(), pool.bytes());
}

TEST(Pool, GrowthTakesTheSequenceElsewhereOrSaysThatThereIsNoRoom) {
  const auto model = load(model_path());
  Engine engine(*model);
  const auto c = alone(engine, random_tokens(100, 256, 4), full_policy(), 150);
  const int64_t row = kv_token_bytes(model->hparams(), {}) * model->hparams().n_layer;
  {
    const auto pool = engine.make_pool(600 * row);
    std::vector<std::unique_ptr<Running>> batch;
    batch.push_back(start(engine, c, pool));
    while (!batch[0]->done()) step(engine, batch);
    EXPECT_EQ(pool.free_bytes(), 600 * row - 292 * row);  // grown by 64, then by 128
  }
  const auto tight = engine.make_pool(120 * row);
  auto running = start(engine, c, tight);
  const Step one{&running->sequence, c.tokens[0]};
  EXPECT_THROW(engine.decode(std::span(&one, 1)), Error);
  EXPECT_EQ(running->sequence.position, 100);
}

TEST(Pool, StepsThatCannotGrowAreNamedAndTheOthersGoOn) {
  const auto model = load(model_path());
  Engine engine(*model);
  const auto policy = full_policy();
  const int64_t row = kv_token_bytes(model->hparams(), {}) * model->hparams().n_layer;
  // Three of 20 tokens and one of 100; one of the short ones finds 84 rows to grow, two would not.
  const auto pool = engine.make_pool((3 * 20 + 101 + 84) * row);
  std::vector<Sequence> s(4);
  for (size_t i = 0; i < 4; ++i) {
    PrefillOptions options;
    options.pool = pool;
    options.reserve = i == 1 ? 1 : 0;
    engine.prefill(s[i], random_tokens(i == 1 ? 100 : 20, 256, i), *policy, options);
  }
  const int64_t free = pool.free_bytes();
  EXPECT_EQ(free, 84 * row);
  auto without_room = [&](const std::vector<Step>& steps) -> std::vector<size_t> {
    try {
      engine.decode(steps);
    } catch (const PoolFull& e) {
      EXPECT_EQ(pool.free_bytes(), free);
      for (const auto& step : steps) EXPECT_EQ(step.sequence->position, step.sequence->prompt_tokens);
      EXPECT_NE(std::string(e.what()).find("no room for decode steps "), std::string::npos) << e.what();
      return e.indices();
    }
    return {};
  };
  EXPECT_EQ(without_room({{s.data(), 1}, {&s[1], 1}, {&s[2], 1}, {&s[3], 1}}), (std::vector<size_t>{2, 3}));
  EXPECT_EQ(without_room({{&s[2], 1}, {s.data(), 1}}), (std::vector<size_t>{1}));
  EXPECT_EQ(without_room({{s.data(), 1}, {&s[1], 1}}), std::vector<size_t>{});
  EXPECT_EQ(s[0].position, 21);
  EXPECT_EQ(s[1].position, 101);
  s[0] = {};
  EXPECT_EQ(without_room({{&s[2], 1}}), std::vector<size_t>{});
  EXPECT_THROW(engine.follow(s[3], random_tokens(60, 256), [](int64_t, std::span<const float>) {}), PoolFull);
  EXPECT_EQ(s[3].position, 20);
}

TEST(Engines, TwoOfOneModelInThreadsOfTheirOwnGiveWhatOneGives) {
  const auto model = load(model_path());
  Engine alone_engine(*model, {.chunk = 32});
  std::vector<Case> cases;
  for (uint64_t i = 0; i < 2; ++i)
    cases.push_back(alone(alone_engine, random_tokens(150 + 30 * static_cast<int64_t>(i), 256, i + 1),
                          windowkv_policy(Budget::percent(30), windows()), 20));
  const auto pool = alone_engine.make_pool(8 << 20);
  const int64_t all = pool.free_bytes();
  std::vector<std::vector<Case>> got(2);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 2; ++i)
    threads.emplace_back([&, i] {
      Engine engine(*model, {.chunk = 32});
      for (int round = 0; round < 6; ++round) {
        const auto& c = cases[(i + static_cast<size_t>(round)) % 2];
        Case mine{c.prompt, c.policy, 0, {}, {}};
        Sequence sequence;
        PrefillOptions options;
        options.pool = pool;
        mine.tokens.push_back(top(engine.prefill(sequence, c.prompt, *c.policy, options)));
        for (size_t step = 0; step < 20; ++step) {
          const auto logits = engine.decode(sequence, mine.tokens.back());
          mine.logits.emplace_back(logits.begin(), logits.end());
          mine.tokens.push_back(top(logits));
        }
        got[i].push_back(std::move(mine));
      }
    });
  for (auto& thread : threads) thread.join();
  for (size_t i = 0; i < 2; ++i)
    for (size_t round = 0; round < got[i].size(); ++round) {
      const auto& c = cases[(i + round) % 2];
      EXPECT_EQ(got[i][round].tokens, c.tokens);
      for (size_t step = 0; step < c.logits.size(); ++step)
        expect_same(got[i][round].logits[step], c.logits[step], 1e-3);
    }
  EXPECT_EQ(pool.free_bytes(), all);
}

/// Of which a row is 32 elements.
HParams one_head() {
  HParams hp;
  hp.d_head = 32;
  hp.n_head_kv = 1;
  return hp;
}

TEST(Arena, CanBeTakenFromInSeveralThreads) {
  const Backends backends("cpu", 1);
  KvArena arena(backends, one_head(), {}, 64);
  std::vector<std::atomic<int>> holders(64);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (uint32_t seed = 0; seed < 4; ++seed)
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 20000; ++i) {
        const int64_t rows = 1 + random() % 20;
        if (const auto first = arena.take(rows)) {
          for (int64_t r = *first; r < *first + rows; ++r) wrong += holders[static_cast<size_t>(r)]++ != 0;
          for (int64_t r = *first; r < *first + rows; ++r) --holders[static_cast<size_t>(r)];
          arena.give_back(*first, rows);
        } else {
          wrong += arena.free_units() > 64;
        }
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(arena.longest_free(), 64);
}

TEST(Arena, GivesWhatIsFreeAndNeverTwice) {
  const Backends backends("cpu", 1);
  KvArena arena(backends, one_head(), {}, 100);
  std::vector<bool> used(100);
  std::vector<std::pair<int64_t, int64_t>> held;
  std::mt19937 random(3);
  auto longest = [&] {
    int64_t best = 0;
    int64_t run = 0;
    for (bool u : used) best = std::max(best, run = u ? 0 : run + 1);
    return best;
  };
  for (int i = 0; i < 2000; ++i) {
    if (random() % 2 == 0) {
      const int64_t rows = random() % 30;
      if (rows > longest()) {
        EXPECT_EQ(arena.take(rows), std::nullopt);
        continue;
      }
      const int64_t first = arena.take(rows).value();
      for (int64_t r = first; r < first + rows; ++r) {
        EXPECT_FALSE(used.at(static_cast<size_t>(r)));
        used[static_cast<size_t>(r)] = true;
      }
      held.emplace_back(first, rows);
    } else if (!held.empty()) {
      std::swap(held[random() % held.size()], held.back());
      const auto [first, rows] = held.back();
      held.pop_back();
      arena.give_back(first, rows);
      std::fill_n(used.begin() + first, rows, false);
    }
    EXPECT_EQ(arena.longest_free(), longest());
    EXPECT_EQ(arena.free_units(), std::count(used.begin(), used.end(), false));
  }
}

}  // namespace
}  // namespace windowkv::test
