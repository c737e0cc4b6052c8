// Policies that draft an answer (Policy::draft): what plain loops choose by the draft's queries, and that the
// answer begins anew.
#include "engine/draft.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cache/prefix_parts.h"
#include "support/models.h"
#include "support/outcomes.h"
#include "support/recorded.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

constexpr int kDraft = 8;
constexpr int64_t kWindow = 8;

class Drafted : public ::testing::Test {
 protected:
  static constexpr int64_t kPrompt = 300;
  static constexpr int64_t kBudget = 64;

  std::unique_ptr<Model> model = load(random_model_path("draft", eight_layers()));
  const HParams& hp = model->hparams();
  Engine engine{*model, {.chunk = 128}};
  std::vector<Token> prompt = random_tokens(kPrompt, hp.n_vocab);
  std::unique_ptr<Policy> laq = make_policy("laq", {Budget::tokens(kBudget), {}});

  Sequence prefilled(const Policy& policy, const PrefillOptions& options = {}) {
    Sequence sequence;
    last = {};
    const auto logits = engine.prefill(sequence, prompt, policy, options);
    last.assign(logits.begin(), logits.end());
    return sequence;
  }

  /// Layer by layer, [tokens of the draft][n_head·d_head], decoded from SnapKV's choice.
  std::vector<std::vector<float>> draft_queries() {
    auto sequence = prefilled(*make_policy("snapkv", {Budget::tokens(kBudget), {}}), {.reserve = kDraft});
    LastQueries queries(*model->loaded().backends, hp);
    sequence.cache->queries = &queries;
    std::vector<std::vector<float>> out(static_cast<size_t>(hp.n_layer));
    auto token = static_cast<Token>(std::ranges::max_element(last) - last.begin());
    for (int i = 0; i < kDraft; ++i) {
      const Step step{&sequence, token};
      token = engine.decode_greedy(std::span(&step, 1)).front();
      const auto all = queries.save();
      const size_t each = all.size() / out.size();
      for (size_t layer = 0; layer < out.size(); ++layer)
        out[layer].insert(out[layer].end(), all.begin() + static_cast<ptrdiff_t>(layer * each),
                          all.begin() + static_cast<ptrdiff_t>((layer + 1) * each));
    }
    return out;
  }

  std::vector<float> last;  ///< logits of the last prefill
};

/// What the prompt's tokens receive of one query that sees all of them: adds it.
void add_attention(std::vector<double>& sums, std::span<const float> q, std::span<const float> keys) {
  const size_t d = q.size();
  std::vector<double> weights(sums.size(), 0);
  for (size_t j = 0; j < weights.size(); ++j)
    for (size_t x = 0; x < d; ++x) weights[j] += static_cast<double>(q[x]) * keys[j * d + x];
  const double top = std::ranges::max(weights);
  double sum = 0;
  for (auto& w : weights) sum += w = std::exp((w - top) / std::sqrt(static_cast<double>(d)));
  for (size_t j = 0; j < weights.size(); ++j) sums[j] += weights[j] / sum;
}

TEST_F(Drafted, ChoosesWhatPlainLoopsChooseByTheDraftsQueriesAndThePromptsLast) {
  const auto recorded = record(engine, *model, prompt, kWindow);
  const auto queries = draft_queries();
  const auto kept = kept_by_layer(prefilled(*laq));
  const auto d = static_cast<size_t>(hp.d_head);
  const int share = hp.n_head / hp.n_head_kv;
  const auto candidates = static_cast<size_t>(kPrompt - kWindow);
  ASSERT_EQ(kept.size(), static_cast<size_t>(hp.n_layer));
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    ASSERT_EQ(kept[static_cast<size_t>(layer)].size(), static_cast<size_t>(hp.n_head_kv));
    for (int kv = 0; kv < hp.n_head_kv; ++kv) {
      const auto keys = std::span(recorded.k[static_cast<size_t>(layer)])
                            .subspan(static_cast<size_t>(kv) * kPrompt * d, kPrompt * d);
      std::vector<double> scores(candidates, 0);
      for (int head = kv * share; head < (kv + 1) * share; ++head) {
        auto sums = recorded.received(layer, head, Rows::kSum);
        for (size_t i = 0; i < kDraft; ++i)
          add_attention(sums,
                        std::span(queries[static_cast<size_t>(layer)])
                            .subspan((i * static_cast<size_t>(hp.n_head) + static_cast<size_t>(head)) * d, d),
                        keys);
        for (size_t j = 0; j < candidates; ++j) {
          const auto first = sums.begin() + static_cast<ptrdiff_t>(j < 3 ? 0 : j - 3);
          const auto end = sums.begin() + static_cast<ptrdiff_t>(std::min(candidates, j + 4));
          scores[j] += *std::max_element(first, end) / share;
        }
      }
      const auto& list = kept[static_cast<size_t>(layer)][static_cast<size_t>(kv)];
      EXPECT_EQ(list.size(), static_cast<size_t>(kBudget));
      expect_highest(list, scores, 0, kBudget - kWindow);
      for (int64_t i = kPrompt - kWindow; i < kPrompt; ++i)
        EXPECT_TRUE(std::ranges::binary_search(list, static_cast<int32_t>(i))) << i;
    }
  }
}

TEST_F(Drafted, TheAnswerBeginsAnew) {
  auto full = prefilled(*full_policy());
  const auto expected = last;
  auto drafted = prefilled(*laq);
  EXPECT_EQ(last, expected);
  EXPECT_EQ(drafted.position, kPrompt);
  EXPECT_EQ(drafted.recall, nullptr);
  auto fixed = prefilled(*fixed_policy(kept_by_layer(drafted)));
  for (int pass = 0; pass < 2; ++pass) {
    for (const Token token : random_tokens(12, hp.n_vocab, 7)) {
      const auto a = engine.decode(drafted, token);
      const std::vector<float> got(a.begin(), a.end());
      const auto b = engine.decode(fixed, token);
      ASSERT_EQ(got, std::vector<float>(b.begin(), b.end()));
    }
    drafted.rewind();
    fixed.rewind();
  }
  EXPECT_NE(kept_by_layer(drafted),
            kept_by_layer(prefilled(*make_policy("snapkv", {Budget::tokens(kBudget), {}}))));
}

TEST_F(Drafted, AStoreServesWhatIsPutAsideOtherwise) {
  const auto without = kept_by_layer(prefilled(*laq));
  PrefixStore store(*model, {.types = {KvType::kF16, KvType::kF16}});
  PrefillOptions options;
  options.store = &store;
  EXPECT_EQ(kept_by_layer(prefilled(*laq, options)), without);
  EXPECT_EQ(store.tokens().size(), static_cast<size_t>(kPrompt));
  store.cut(200);
  const auto again = prefilled(*laq, options);
  EXPECT_EQ(again.reused_tokens, 200);
  EXPECT_EQ(kept_by_layer(again).size(), without.size());
  EXPECT_EQ(store.parts().all().size(), 1U);  // one block
}

TEST_F(Drafted, MemoryIsWhatThePlanSays) {
  for (int64_t reserve : {0, 20}) {
    const auto plan = engine.plan(kPrompt, *laq, reserve);
    EXPECT_EQ(plan.store, kPrompt * hp.n_layer * hp.kv_layer_bytes_per_token());
    EXPECT_EQ(prefilled(*laq, {.reserve = reserve}).bytes.peak, plan.peak_kv());
  }
  EXPECT_EQ(engine.plan(kBudget, *laq).store, 0);
  // Where nothing is chosen beyond the window, nothing is drafted.
  EXPECT_EQ(engine.plan(kPrompt, *make_policy("laq", {Budget::tokens(32), {}})).store, 0);
}

TEST_F(Drafted, SeveralPromptsAndPolicies) {
  const auto snapkv = make_policy("snapkv", {Budget::tokens(kBudget), {}});
  const auto smaller = make_policy("laq", {Budget::tokens(40), {}});
  const auto alone = kept_by_layer(prefilled(*laq)), alone_smaller = kept_by_layer(prefilled(*smaller));
  const std::vector<const Policy*> policies = {snapkv.get(), laq.get(), smaller.get()};
  std::vector<Sequence> sequences(3);
  engine.prefill(sequences, prompt, policies);
  EXPECT_EQ(kept_by_layer(sequences[1]), alone);
  EXPECT_EQ(kept_by_layer(sequences[2]), alone_smaller);
  const auto other = random_tokens(50, hp.n_vocab, 4);
  const std::vector<PrefillRequest> requests = {{&sequences[0], other, snapkv.get()},
                                                {&sequences[1], prompt, laq.get()},
                                                {&sequences[2], other, laq.get()}};
  Engine wide(*model, {.chunk = 1024});
  wide.prefill(requests);
  EXPECT_EQ(sequences[1].kept, std::vector<int64_t>(static_cast<size_t>(hp.n_layer), kBudget));
  EXPECT_EQ(sequences[2].kept, std::vector<int64_t>(static_cast<size_t>(hp.n_layer), 50));
  EXPECT_THROW(make_policy("laq", {Budget::tokens(kBudget), {}, 2}), Error);
}

}  // namespace
}  // namespace windowkv::test
