// Prefix stores of models with recurrent layers: prompts go on from a snapshot of their states, and get the
// answer of a fresh prompt with the same tokens.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "cache/kv_cache.h"
#include "cache/prefix_header.h"
#include "cache/prefix_parts.h"
#include "cache/snapshot_positions.h"
#include "support/files.h"
#include "support/models.h"
#include "support/outcomes.h"
#include "support/prefix_edit.h"
#include "support/reference.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

using Places = std::vector<int64_t>;

constexpr KvTypes kF16 = {};
const double kRounding = 2e-3 * device_rounding();

RandomModel recurrent_model(int layers = 8) {
  RandomModel m;
  m.family = "qwen35";
  m.type = GGML_TYPE_F32;
  m.n_layer = layers;  // 3 and 7 attend
  return m;
}

TEST(SnapshotPositions, AreFartherApartTheFartherFromTheEnd) {
  EXPECT_EQ(snapshot_positions({}, 0, 10'000, {}, 15), (Places{1808, 7952, 9488, 9872, 9968}));
  EXPECT_EQ(snapshot_positions({}, 0, 400, {}, 15), (Places{272, 368}));
  EXPECT_EQ(snapshot_positions({}, 0, kFirstSnapshot + kSnapshotTail - 1, {}, 15), Places{});
  EXPECT_EQ(snapshot_positions({}, 9500, 10'000, {}, 15), (Places{9872, 9968}));
  EXPECT_EQ(snapshot_positions({}, 0, 10'000, {}, 0), Places{});
}

TEST(SnapshotPositions, ExpectedOnesAreTakenWhereTheyAreComputed) {
  const Places likely = {9960, 0, 20'000};
  EXPECT_EQ(snapshot_positions({}, 0, 10'000, likely, 3), (Places{9488, 9960, 9968}));
  const Places passed = {9000};
  EXPECT_EQ(snapshot_positions({}, 9000, 10'000, passed, 15), (Places{9488, 9872, 9968}));
  const Places end = {10'000};
  EXPECT_EQ(snapshot_positions({}, 9600, 10'000, end, 15), (Places{9872, 9968, 10'000}));
}

// A conversation of many turns: no prompt that leaves it at a distance d from its end computes many times d.
TEST(SnapshotPositions, AreThinnedOutAsTextGrows) {
  Places held;
  int64_t past = 0;
  for (int64_t n = 300; n < 60'000; n += 150) {
    held = snapshot_positions(held, past, n, {}, 8);
    ASSERT_LE(held.size(), 8U);
    ASSERT_TRUE(std::ranges::is_sorted(held));
    EXPECT_EQ(held.back(), n - kSnapshotTail);
    past = n - kSnapshotTail;
    for (int64_t distance = kSnapshotTail; n - distance >= held.front(); distance += 50) {
      const int64_t from = *std::prev(std::ranges::upper_bound(held, n - distance));
      EXPECT_LE(n - from, 8 * distance) << "of " << n;
    }
  }
  EXPECT_LT(held.front(), 45'000);
}

class RecurrentStore : public testing::Test {
 protected:
  std::unique_ptr<Model> model = load(random_model_path("recurrent_store", recurrent_model()));
  const HParams& hp = model->hparams();
  Engine engine{*model, {.chunk = 128}};
  std::vector<Token> document = random_tokens(900, hp.n_vocab);
  std::vector<Token> question = random_tokens(45, hp.n_vocab, 2);
  std::vector<Token> other = random_tokens(40, hp.n_vocab, 3);
  std::vector<Token> third = random_tokens(50, hp.n_vocab, 4);
  std::unique_ptr<Policy> full = full_policy();

  PrefixStore make(int snapshots = 8) const {
    return PrefixStore(*model, {.types = kF16, .snapshots = snapshots});
  }

  /// Prefills with the store and expects what a fresh prompt gives; returns how many tokens were not
  /// computed.
  int64_t ask(PrefixStore& store, std::span<const Token> prompt, const Policy& policy) {
    auto got = prefilled(engine, prompt, policy, &store);
    auto fresh = prefilled(engine, prompt, policy);
    expect_same(engine, got, fresh, kRounding);
    EXPECT_TRUE(std::ranges::equal(store.tokens(), prompt));
    return got.sequence.reused_tokens;
  }
};

TEST_F(RecurrentStore, FurtherQuestionsGoOnFromASnapshot) {
  for (const auto& [name, policy] : policies(2)) {
    SCOPED_TRACE(name);
    auto store = make();
    const auto first = joined(document, question), second = joined(document, other);
    EXPECT_EQ(ask(store, first, *policy), 0);
    EXPECT_EQ(store.snapshots(), (Places{433, 817, 913}));
    EXPECT_EQ(store.reusable_prefix(second), 817);
    const bool all_queries = name == "h2o";
    if (name == "aggregation") {  // which weighs the queries of what is computed
      auto got = prefilled(engine, second, *policy, &store);
      auto fresh = prefilled(engine, second, *policy);
      EXPECT_LT(relative_error(got.logits, fresh.logits), kRounding);
      continue;
    }
    EXPECT_EQ(ask(store, second, *policy), all_queries ? 0 : 817);
    // Where the two parted, the third goes on.
    EXPECT_TRUE(std::ranges::count(store.snapshots(), 900));
    EXPECT_EQ(ask(store, joined(document, third), *policy), all_queries ? 0 : 900);
  }
}

TEST_F(RecurrentStore, AnExpectedPlaceIsHeld) {
  auto store = make();
  PrefillOptions options;
  options.store = &store;
  options.expected_common = 900;
  Sequence sequence;
  engine.prefill(sequence, joined(document, question), *full, options);
  EXPECT_EQ(store.snapshots(), (Places{433, 817, 900, 913}));
  EXPECT_EQ(ask(store, joined(document, other), *full), 900);
  // The end of a prompt, too.
  auto another = make();
  options.store = &another;
  engine.prefill(sequence, document, *full, options);
  EXPECT_EQ(another.snapshots(), (Places{388, 772, 868, 900}));
  EXPECT_EQ(ask(another, joined(document, other), *full), 900);
}

TEST_F(RecurrentStore, TheObservationWindowIsComputedAgain) {
  auto store = make();
  const auto snapkv = make_policy("snapkv", {Budget::tokens(100), {}});
  const auto prompt = joined(document, question);
  ask(store, prompt, *snapkv);
  const auto places = store.snapshots();
  EXPECT_EQ(store.bytes_to_add(prompt), 0);
  EXPECT_EQ(ask(store, prompt, *snapkv), 945 - kSnapshotTail);
  EXPECT_EQ(store.snapshots(), places);
  // The common tokens and its own leave 20 for the window: from the snapshot before.
  EXPECT_EQ(ask(store, joined(std::span(prompt).first(913), std::span(other).first(20)), *snapkv), 817);
}

TEST_F(RecurrentStore, ABranchGoesOnFromAnEarlierSnapshot) {
  auto store = make();
  ask(store, joined(document, question), *full);
  EXPECT_EQ(ask(store, joined(std::span(document).first(600), third), *full), 433);
  EXPECT_EQ(store.snapshots().front(), 433);
  EXPECT_TRUE(std::ranges::count(store.snapshots(), 600));
  // And one before all of them is read from its beginning.
  EXPECT_EQ(ask(store, joined(std::span(document).first(300), document), *full), 0);
}

TEST_F(RecurrentStore, StatesAreWhatAnswersDependOn) {
  auto store = make();
  const auto prompt = joined(document, question);
  auto fresh = prefilled(engine, prompt, *full, &store);
  auto snapshots = store.parts().snapshots();
  snapshots.back().state = store.parts().make_snapshot();  // zeros
  store.parts().set_snapshots(snapshots);
  auto got = prefilled(engine, prompt, *full, &store);
  EXPECT_EQ(got.sequence.reused_tokens, 913);
  EXPECT_GT(relative_error(got.logits, fresh.logits), 10 * kRounding);
}

// What is taken within a chunk is what a prompt of as many tokens leaves.
TEST_F(RecurrentStore, SnapshotsAreTheStatesThere) {
  auto store = make();
  const auto prompt = joined(document, question);
  prefilled(engine, prompt, *full, &store);
  for (const auto& [tokens, state] : store.parts().snapshots()) {
    auto whole = prefilled(engine, std::span(prompt).first(static_cast<size_t>(tokens)), *full);
    for (int layer = 0; layer < hp.n_layer; ++layer) {
      if (!hp.recurrent(layer)) continue;
      const auto& there = whole.sequence.cache->states()->layer(layer);
      for (auto [a, b] : {std::pair{state->layer(layer).inputs, there.inputs},
                          {state->layer(layer).matrices, there.matrices}}) {
        std::vector<float> got(static_cast<size_t>(ggml_nelements(a))), want(got.size());
        ASSERT_EQ(ggml_nbytes(a), ggml_nbytes(b));
        ggml_backend_tensor_get(a, got.data(), 0, ggml_nbytes(a));
        ggml_backend_tensor_get(b, want.data(), 0, ggml_nbytes(b));
        EXPECT_LT(relative_error(got, want), kRounding) << tokens << " tokens, layer " << layer;
      }
    }
  }
}

TEST_F(RecurrentStore, ChunksAndStepsOfAnySize) {
  for (const int layers : {8, 6})  // the last attends, or is recurrent
    for (const int chunk : {7, 512, 2048}) {
      SCOPED_TRACE(std::to_string(layers) + " layers, chunks of " + std::to_string(chunk));
      const auto another =
          load(random_model_path("recurrent_store_" + std::to_string(layers), recurrent_model(layers)));
      Engine small(*another, {.chunk = chunk});
      PrefixStore store(*another, {.types = kF16});
      PrefillOptions options;
      options.store = &store;
      options.expected_common = 896;  // of chunks of seven, where one ends
      int64_t step = 0;
      options.step_tokens = [&](int64_t most) { return std::min<int64_t>(most, 1 + step++ % 300); };
      Sequence sequence;
      small.prefill(sequence, joined(document, question), *full, options);
      EXPECT_EQ(store.snapshots(), (Places{433, 817, 896, 913}));
      const auto prompt = joined(std::span(document).first(896), other);
      auto got = prefilled(small, prompt, *full, &store);
      EXPECT_EQ(got.sequence.reused_tokens, 896);
      auto fresh = prefilled(small, prompt, *full);
      expect_same(small, got, fresh, kRounding);
    }
}

TEST_F(RecurrentStore, ManyTurns) {
  auto store = make(4);
  const auto all = random_tokens(2000, hp.n_vocab, 5);
  int64_t reused = 0;
  for (size_t n = 300; n < 2000; n += 170) {
    reused = prefilled(engine, std::span(all).first(n), *full, &store).sequence.reused_tokens;
    EXPECT_LE(store.snapshots().size(), 4U);
    EXPECT_EQ(reused, n > 300 ? static_cast<int64_t>(n) - 170 - kSnapshotTail : 0);
  }
  EXPECT_GT(ask(store, all, *full), 1700);
}

TEST_F(RecurrentStore, CutsAndForks) {
  auto store = make();
  ask(store, joined(document, question), *full);
  auto fork = store.fork();
  EXPECT_EQ(fork.snapshots(), store.snapshots());
  EXPECT_EQ(fork.parts().snapshots().back().state, store.parts().snapshots().back().state);
  const int64_t before = store.bytes();
  store.cut(850);
  EXPECT_EQ(store.snapshots(), (Places{433, 817}));
  EXPECT_EQ(before - store.bytes(), hp.state_bytes());
  store.cut(817);
  EXPECT_EQ(store.snapshots(), (Places{433, 817}));
  EXPECT_EQ(ask(store, joined(std::span(document).first(817), other), *full), 817);
  EXPECT_EQ(ask(fork, joined(document, third), *full), 817);
  store.cut(0);
  EXPECT_EQ(store.bytes(), 0);
}

TEST_F(RecurrentStore, PlansAndBytesCountThem) {
  auto store = make();
  const std::vector<const Policy*> one = {full.get()};
  PrefillOptions options;
  options.store = &store;
  const int64_t rows = 945 * 2 * hp.kv_layer_bytes_per_token();
  EXPECT_EQ(store.bytes(945), rows + 3 * hp.state_bytes());
  EXPECT_EQ(engine.plan(945, one, options).store, store.bytes(945));
  const auto first = joined(document, question), second = joined(document, other);
  EXPECT_EQ(store.bytes_to_add(first), store.bytes(945));
  prefilled(engine, first, *full, &store);
  EXPECT_EQ(store.bytes(), store.bytes(945));
  const int64_t before = store.bytes(), added = store.bytes_to_add(second);
  // Where they part, and two places near the new end.
  EXPECT_EQ(added, 40 * 2 * hp.kv_layer_bytes_per_token() + 2 * hp.state_bytes());
  prefilled(engine, second, *full, &store);
  EXPECT_EQ(store.snapshots(), (Places{433, 817, 900, 908}));
  EXPECT_EQ(store.bytes(), before + added - hp.state_bytes());  // one went
}

TEST_F(RecurrentStore, WithoutSnapshotsEveryPromptIsReadAnew) {
  auto store = make(0);
  EXPECT_EQ(ask(store, joined(document, question), *full), 0);
  EXPECT_EQ(ask(store, joined(document, other), *full), 0);
  EXPECT_EQ(store.snapshots(), Places{});
  EXPECT_THROW(make(-1), Error);
  EXPECT_THROW(make(kMostSnapshots + 1), Error);
}

TEST_F(RecurrentStore, ACancelledPrefillLeavesTheCommonTokens) {
  auto store = make();
  prefilled(engine, joined(document, question), *full, &store);
  Sequence sequence;
  PrefillOptions options;
  options.store = &store;
  int calls = 0;
  options.cancelled = [&] { return ++calls > 3; };
  EXPECT_THROW(engine.prefill(sequence, joined(document, other), *full, options), Cancelled);
  EXPECT_TRUE(std::ranges::equal(store.tokens(), document));
  EXPECT_EQ(store.snapshots(), (Places{433, 817}));
  EXPECT_EQ(ask(store, joined(document, other), *full), 817);
}

// Repetitions find the state that the prompt left; a draft is taken out of it again.
TEST_F(RecurrentStore, SecondPassesWorkFromIt) {
  for (const char* name : {"laq", "kvzip"}) {
    SCOPED_TRACE(name);
    const auto policy = make_policy(name, {Budget::tokens(100), {}});
    auto store = make();
    ask(store, joined(document, question), *policy);
    EXPECT_EQ(ask(store, joined(document, other), *policy), 817);
  }
}

TEST_F(RecurrentStore, LiesInATemporaryFileToo) {
  PrefixStore store(*model, {.types = kF16, .place = PrefixStoreOptions::Place::kTemporaryFile});
  ask(store, joined(document, question), *full);
  EXPECT_FALSE(store.parts().snapshots().front().state->memory()->is_anonymous());
  EXPECT_EQ(ask(store, joined(document, other), *full), 817);
}

TEST_F(RecurrentStore, AFileHoldsSnapshots) {
  auto store = make();
  ask(store, joined(document, question), *full);
  ask(store, joined(document, other), *full);
  const auto path = temp_path("recurrent.prefix");
  store.save(path);
  auto loaded = PrefixStore::load(*model, path);
  EXPECT_EQ(loaded.snapshots(), store.snapshots());
  EXPECT_EQ(loaded.types(), store.types());
  EXPECT_EQ(loaded.shown_bytes(), store.shown_bytes());
  for (size_t i = 0; i < store.snapshots().size(); ++i)
    EXPECT_EQ(std::memcmp(loaded.parts().snapshots()[i].state->data(),
                          store.parts().snapshots()[i].state->data(), StateSnapshot::bytes(hp)),
              0);
  // The same bits, and the same bytes once more.
  const auto again = temp_path("recurrent_again.prefix");
  loaded.save(again);
  EXPECT_EQ(read_bytes(again), read_bytes(path));
  const auto info = read_prefix_info(path);
  EXPECT_EQ(info.snapshots, store.snapshots());
  EXPECT_EQ(info.n_layer, 8);
  const auto prompt = joined(document, third);
  const auto before = prefilled(engine, prompt, *full, &store),
             after = prefilled(engine, prompt, *full, &loaded);
  EXPECT_EQ(after.sequence.reused_tokens, 900);
  EXPECT_EQ(after.logits, before.logits);
  // Saved over itself, longer.
  const auto text = joined(prompt, joined(document, third));
  ask(loaded, text, *full);
  loaded.save(path);
  auto grown = PrefixStore::load(*model, path);
  EXPECT_EQ(grown.snapshots(), loaded.snapshots());
  EXPECT_EQ(ask(grown, joined(text, other), *full), std::ssize(text) - kSnapshotTail);
}

TEST_F(RecurrentStore, AFileThatIsDamagedOrOfAnotherModelIsRefused) {
  auto store = make();
  prefilled(engine, joined(document, question), *full, &store);
  const auto path = temp_path("recurrent_damaged.prefix");
  store.save(path);
  const auto bytes = read_bytes(path);
  const auto error = [&](const std::vector<uint8_t>& of, const Model& with) -> std::string {
    try {
      PrefixStore::load(with, write_bytes("recurrent_damaged.prefix", of));
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(error(bytes, *model), "");
  const auto header = PrefixHeader::decode(bytes, "");
  EXPECT_EQ(header.snapshots, store.snapshots());
  for (size_t i = 0; i < header.snapshots.size(); ++i) {
    auto damaged = bytes;
    damaged[header.snapshots_at + i * StateSnapshot::bytes(hp) + 77] ^= 1;
    EXPECT_NE(error(damaged, *model).find("the checksum of the states after"), std::string::npos);
  }
  auto shorter = bytes;
  shorter.pop_back();
  EXPECT_NE(error(shorter, *model).find("truncated"), std::string::npos);

  auto pieces = take_apart(bytes);
  EXPECT_EQ(put_together(pieces), bytes);
  ASSERT_TRUE(seal(pieces));
  EXPECT_EQ(put_together(pieces), bytes);
  const auto edited = [&](const std::function<void(nlohmann::ordered_json&)>& edit, bool sealed) {
    auto copy = pieces;
    edit(copy.header);
    EXPECT_TRUE(!sealed || seal(copy));
    return error(put_together(copy), *model);
  };
  for (const auto& [field, value] : std::vector<std::pair<std::string, std::string>>{
           {"/snapshots", "[5, 5]"},
           {"/snapshots", "[0]"},
           {"/snapshots", "[946]"},
           {"/snapshots", "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]"},
           {"/snapshots", "7"},
           {"/snapshots", "[-1]"},
           {"/model/recurrent/layers", "[]"},
           {"/model/recurrent/layers", "[0,1,2,3,4,5,6,7]"},
           {"/model/recurrent/layers", "[8]"},
           {"/model/recurrent/layers", "[1,0]"},
           {"/model/recurrent/layers", "[0.5]"},
           {"/model/recurrent/heads", "0"},
           {"/model/recurrent/kernel", "1"},
           {"/model/recurrent/d_head", "100000"},
           {"/model/recurrent", "null"},
           {"/checksums/snapshots", "[]"}})
    EXPECT_NE(edited(
                  [&, f = field, v = value](auto& json) {
                    json[nlohmann::ordered_json::json_pointer(f)] = nlohmann::ordered_json::parse(v);
                  },
                  false)
                  .find("damaged: "),
              std::string::npos)
        << field << " " << value;
  // What is consistent in itself, but not the model's.
  EXPECT_NE(edited([](auto& json) { json["model"]["recurrent"]["layers"] = {0, 1, 2, 4, 5, 7}; }, true)
                .find("made with another model"),
            std::string::npos);
  EXPECT_NE(edited([](auto& json) { json["model"]["recurrent"]["heads"] = 8; }, true)
                .find("made with another model"),
            std::string::npos);
}

// Beside llama.cpp, which reads all of the prompt.
TEST(RecurrentStoreBesideLlamaCpp, GivesItsLogits) {
  const auto path = random_model_path("recurrent_store", recurrent_model());
  Reference reference(path);
  const auto model = load(path, 1, /*blas=*/false);
  Engine engine(*model);
  PrefixStore store(*model, {.types = kF16});
  const auto full = full_policy();
  const auto prompt = random_tokens(645, model->hparams().n_vocab);
  prefilled(engine, std::span(prompt).first(600), *full, &store);
  const auto got = prefilled(engine, prompt, *full, &store);
  EXPECT_EQ(got.sequence.reused_tokens, 568);
  const auto theirs = reference.all_logits(prompt, prompt.size(), prompt.size());
  EXPECT_LT(relative_error(got.logits, theirs.back()), 1e-2 * device_rounding());
}

}  // namespace
}  // namespace windowkv::test
