// Models of which some layers keep a state of fixed size instead of rows: what a policy is told of them, and
// that every way through the engine finds the state that belongs to it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "cache/kv_cache.h"
#include "engine/sliding.h"
#include "support/models.h"
#include "support/recorded.h"
#include "support/reference.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"
#include "windowkv/selection.h"

namespace windowkv::test {
namespace {

constexpr int64_t kPrompt = 300;

RandomModel recurrent_model(int layers = 8) {
  RandomModel m;
  m.family = "qwen35";
  m.type = GGML_TYPE_F32;
  m.n_layer = layers;  // 3 and 7 attend
  return m;
}

class Recurrent : public testing::Test {
 protected:
  std::unique_ptr<Model> model = load(random_model_path("recurrent", recurrent_model()));
  const HParams& hp = model->hparams();
  Engine engine{*model, {.chunk = 64}};
  std::vector<Token> prompt = random_tokens(kPrompt, hp.n_vocab);
  std::vector<Token> answer = random_tokens(100, hp.n_vocab, 2);
  std::unique_ptr<Policy> policy = windowkv_policy(Budget::tokens(60), SelectionConfig{});

  Sequence prefilled(const Policy& of, const KvPool& pool = {}) {
    Sequence sequence;
    PrefillOptions options;
    options.pool = pool;
    options.reserve = 128;
    engine.prefill(sequence, prompt, of, options);
    return sequence;
  }

  Logits decoded(Sequence& sequence, size_t count) {
    return decoded_logits(engine, sequence, std::span(answer).first(count));
  }

  /// Of the tokens that `follow` takes.
  Logits followed(Sequence& sequence, std::span<const Token> tokens) {
    Logits got;
    engine.follow(sequence, tokens, [&](int64_t, std::span<const float> logits) {
      got.emplace_back(logits.begin(), logits.end());
    });
    return got;
  }
};

TEST_F(Recurrent, PoliciesAreToldOfTheOtherLayers) {
  EXPECT_EQ(hp.full_layers(), (std::vector<int>{3, 7}));
  const auto budget = Budget::tokens(60);
  // 3 inputs of 64 channels, and 4 matrices of 8 × 8.
  const int64_t state = 6 * (3 * 64 + 4 * 64) * 4;
  EXPECT_EQ(hp.state_bytes(), state);
  for (const auto& name : policy_names()) {
    SCOPED_TRACE(name);
    const auto one = make_policy(name, {budget, SelectionConfig{}});
    const auto selector = start_selector(hp, *one, kPrompt);
    Sequence sequence;
    engine.prefill(sequence, prompt, *one);
    ASSERT_EQ(sequence.groups.size(), 2u);
    int64_t kept = 0;
    for (int layer = 0; layer < hp.n_layer; ++layer) {
      EXPECT_GE(selector->settled_at(layer), layer);
      kept += sequence.kept[static_cast<size_t>(layer)];
      if (!hp.recurrent(layer)) continue;
      EXPECT_FALSE(selector->decides(layer));
      EXPECT_EQ(selector->capacity(layer), 0);
      EXPECT_EQ(sequence.kept[static_cast<size_t>(layer)], 0);
      EXPECT_EQ(sequence.cache->layer(layer).rows.capacity(), 0);
    }
    EXPECT_GT(kept, 0);
    EXPECT_LE(kept, name == "full" ? 2 * kPrompt : 2 * 60);
    EXPECT_EQ(sequence.bytes.full, 2 * kPrompt * hp.kv_layer_bytes_per_token() + state);
    EXPECT_EQ(sequence.bytes.kept, kept * hp.kv_layer_bytes_per_token() + state);
    const auto plan = engine.plan(kPrompt, *one, 0);
    EXPECT_EQ(plan.kv_states, state);
    EXPECT_EQ(plan.kv_full, sequence.bytes.full);
    EXPECT_LE(sequence.bytes.peak, plan.peak_kv());
    // Where heads of all layers compete, the plan does not know how it ends; a draft's tokens lie in the
    // cache.
    if (!selector->heads_differ()) {
      EXPECT_EQ(sequence.bytes.peak, plan.peak_kv());
    }
  }
}

// Layers that wait for each other take as many scratches as there are of them, not of recurrent ones between.
TEST_F(Recurrent, WaitingLayersTakeOneScratchEach) {
  SelectionConfig config;
  config.gamma = 2;
  config.decider = Decider::kLast;
  const auto together = windowkv_policy(Budget::tokens(60), config);
  Sequence sequence;
  engine.prefill(sequence, prompt, *together);
  const auto plan = engine.plan(kPrompt, *together, 0);
  EXPECT_EQ(plan.kv_scratch, 2 * kPrompt * hp.kv_layer_bytes_per_token());
  EXPECT_EQ(sequence.bytes.peak, plan.peak_kv());
}

TEST_F(Recurrent, ChunksAndProductsChangeNothing) {
  for (const int layers : {8, 6}) {  // the last attends, or is recurrent
    const auto path = random_model_path(fmt::format("recurrent_{}", layers), recurrent_model(layers));
    Logits expected;
    for (const bool blas : {false, true})
      for (int chunk : {7, 64, 512}) {
        const auto other_model = load(path, 1, blas);
        Engine other(*other_model, {.chunk = chunk});
        Logits got;
        PrefillOptions options;
        options.all_logits = [&](int64_t, std::span<const float> logits) {
          got.emplace_back(logits.begin(), logits.end());
        };
        Sequence sequence;
        other.prefill(sequence, prompt, *full_policy(), options);
        if (expected.empty()) expected = got;
        EXPECT_LT(compare(got, expected).mean, 2e-3) << chunk;
        const auto last = other.prefill(sequence, prompt, *full_policy());
        EXPECT_LT(relative_error(last, expected.back()), 2e-2) << chunk;
      }
  }
}

TEST_F(Recurrent, StepsOfAChunkPassTheStateOn) {
  auto whole = prefilled(*policy);
  Sequence stepped;
  PrefillOptions options;
  int64_t step = 0;
  options.step_tokens = [&](int64_t most) { return std::min<int64_t>(most, 1 + step++ % 5); };
  engine.prefill(stepped, prompt, *policy, options);
  EXPECT_LT(compare(decoded(stepped, 20), decoded(whole, 20)).mean, 2e-3);
}

TEST_F(Recurrent, DecodedAndFollowedTokensAreThoseOfAPrompt) {
  std::vector<Token> all = prompt;
  all.insert(all.end(), answer.begin(), answer.end());
  Logits expected;
  PrefillOptions options;
  options.all_logits = [&](int64_t position, std::span<const float> logits) {
    if (position >= kPrompt) expected.emplace_back(logits.begin(), logits.end());
  };
  Sequence whole;
  engine.prefill(whole, all, *full_policy(), options);
  auto sequence = prefilled(*full_policy());
  EXPECT_LT(compare(decoded(sequence, answer.size()), expected).mean, 2e-3);
  sequence.rewind();
  EXPECT_LT(compare(followed(sequence, answer), expected).mean, 2e-3);
  // A part of them each way.
  sequence.rewind();
  auto got = followed(sequence, std::span(answer).first(30));
  std::ranges::move(decoded_logits(engine, sequence, std::span(answer).subspan(30, 30)),
                    std::back_inserter(got));
  std::ranges::move(followed(sequence, std::span(answer).subspan(60)), std::back_inserter(got));
  EXPECT_LT(compare(got, expected).mean, 2e-3);
}

TEST_F(Recurrent, AnAnswerIsTheSameAfterRewindingInAForkAndComposed) {
  auto sequence = prefilled(*policy);
  auto forked = engine.fork(sequence);
  const std::vector<const Sequence*> layers(static_cast<size_t>(hp.n_layer), &sequence);
  auto composed = engine.compose(layers);
  EXPECT_EQ(composed.bytes.kept, sequence.bytes.kept);
  const auto expected = decoded(sequence, answer.size());
  auto later = engine.fork(sequence);
  sequence.rewind();
  EXPECT_EQ(decoded(sequence, answer.size()), expected);
  EXPECT_EQ(decoded(forked, answer.size()), expected);
  EXPECT_EQ(decoded(composed, answer.size()), expected);
  // A fork of one that has answered goes on from there, and back to the prompt.
  EXPECT_EQ(decoded(later, 10), decoded(sequence, 10));
  later.rewind();
  EXPECT_EQ(decoded(later, answer.size()), expected);
  // Caches that grow keep the state.
  forked.rewind();
  for (int i = 0; i < 3; ++i) decoded(forked, answer.size());
  forked.rewind();
  EXPECT_EQ(decoded(forked, answer.size()), expected);
}

TEST_F(Recurrent, SequencesOfABatchHaveAStateEach) {
  constexpr size_t kSequences = 5;
  for (const bool pooled : {false, true}) {
    KvPool pool;
    if (pooled) pool = engine.make_pool(int64_t{8} << 20);
    std::vector<std::vector<Token>> prompts;
    std::vector<Sequence> together(kSequences), alone(kSequences);
    std::vector<PrefillRequest> requests;
    for (size_t i = 0; i < kSequences; ++i)
      prompts.push_back(random_tokens(10 + 23 * static_cast<int64_t>(i), hp.n_vocab, 10 + i));
    PrefillOptions options;
    options.pool = pool;
    options.reserve = 64;
    Logits expected_first;
    for (size_t i = 0; i < kSequences; ++i) {
      const auto logits = engine.prefill(alone[i], prompts[i], *policy, {.reserve = 64});
      expected_first.emplace_back(logits.begin(), logits.end());
      requests.push_back({&together[i], prompts[i], policy.get()});
    }
    // Three of them share chunks.
    const auto first = engine.prefill(requests, options);
    Logits got_first;
    for (size_t i = 0; i < kSequences; ++i) {
      const auto part = first.subspan(i * static_cast<size_t>(hp.n_vocab), static_cast<size_t>(hp.n_vocab));
      got_first.emplace_back(part.begin(), part.end());
    }
    EXPECT_LT(compare(got_first, expected_first).worst, 2e-2);
    std::vector<Logits> expected;
    for (size_t i = 0; i < kSequences; ++i) expected.push_back(decoded(alone[i], 20));
    std::vector<Logits> got(kSequences);
    for (size_t step = 0; step < 20; ++step) {
      // They join and leave.
      std::vector<size_t> members;
      for (size_t i = 0; i < kSequences; ++i)
        if (got[i].size() < 20 && (step < 3 || i != 2)) members.push_back(i);
      if (step % 2 == 1) std::ranges::reverse(members);
      std::vector<Step> steps;
      for (const size_t i : members) steps.push_back({&together[i], answer[got[i].size()]});
      const auto logits = engine.decode(steps);
      for (size_t s = 0; s < members.size(); ++s) {
        const auto part =
            logits.subspan(s * static_cast<size_t>(hp.n_vocab), static_cast<size_t>(hp.n_vocab));
        got[members[s]].emplace_back(part.begin(), part.end());
      }
    }
    std::ranges::move(decoded_logits(engine, together[2], std::span(answer).subspan(3, 17)),
                      std::back_inserter(got[2]));
    for (size_t i = 0; i < kSequences; ++i) EXPECT_LT(compare(got[i], expected[i]).mean, 2e-3) << i;
  }
}

// One prefill for several policies: all caches get the state, which none of them changes.
TEST_F(Recurrent, PoliciesThatShareAPrefillHaveAStateEach) {
  const auto full = full_policy();
  const Policy* both[] = {full.get(), policy.get()};
  std::vector<Sequence> sequences(2);
  engine.prefill(sequences, prompt, both);
  auto alone = prefilled(*policy), whole = prefilled(*full);
  const auto expected = decoded(alone, 30);
  EXPECT_EQ(decoded(sequences[0], 30), decoded(whole, 30));
  EXPECT_EQ(decoded(sequences[1], 30), expected);
  sequences[1].rewind();
  EXPECT_EQ(decoded(sequences[1], 30), expected);
}

// A draft and a repetition of the prompt pass through the recurrent layers too, and leave no trace there.
TEST_F(Recurrent, DraftsAndRepetitionsLeaveTheStateAsItWas) {
  for (const char* name : {"laq", "kvzip"}) {
    SCOPED_TRACE(name);
    auto second_pass = prefilled(*make_policy(name, {Budget::tokens(60), {}}));
    EXPECT_EQ(second_pass.position, kPrompt);
    const auto kept = kept_by_layer(second_pass);
    auto plain = prefilled(*fixed_policy({kept[3], kept[7]}));
    ASSERT_EQ(second_pass.kept, plain.kept);
    EXPECT_LT(compare(decoded(second_pass, 30), decoded(plain, 30)).worst, 1e-3);
  }
}

}  // namespace
}  // namespace windowkv::test
