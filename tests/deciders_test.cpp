// Which layers, heads and rows choose, end to end: what the engine keeps on a random model equals what plain
// loops choose from that model's queries and keys.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "support/models.h"
#include "support/recorded.h"

namespace windowkv::test {
namespace {

constexpr int64_t kTokens = 150;

std::string seven_layers_path() {
  RandomModel m;
  m.n_layer = 7;
  return random_model_path("seven_layers", m);
}

std::vector<Token> prompt() {
  return random_tokens(kTokens, 256, 4);
}

std::string text(const SelectionConfig& c) {
  return fmt::format("windows {} heads {} decide {} rows {} γ {} ω {}", to_string(c.windows),
                     to_string(c.heads), to_string(c.decider), to_string(c.rows), c.gamma, c.omega);
}

/// Every combination, groups of one to three of the seven layers.
std::vector<SelectionConfig> all_configs() {
  std::vector<SelectionConfig> out;
  for (auto windows : {Windows::kGrid, Windows::kFree})
    for (auto heads : {Heads::kMean, Heads::kMax, Heads::kPerKv})
      for (auto decider : {Decider::kFirst, Decider::kLast, Decider::kAll})
        for (auto rows : {Rows::kSum, Rows::kMax})
          for (int gamma : {1, 2, 3}) {
            if (windows == Windows::kGrid && heads == Heads::kPerKv) continue;
            SelectionConfig c;
            c.windows = windows;
            c.heads = heads;
            c.decider = decider;
            c.rows = rows;
            c.gamma = gamma;
            c.omega = gamma == 2 ? 6 : 8;
            c.p = gamma == 2 ? 3 : 8;
            c.pyramid = Pyramid::kFlat;
            out.push_back(c);
          }
  return out;
}

std::vector<int> deciding(const SelectionConfig& c, const Group& g) {
  if (c.decider == Decider::kFirst) return {g.first_layer};
  if (c.decider == Decider::kLast) return {g.last_layer};
  std::vector<int> all(static_cast<size_t>(g.size()));
  std::iota(all.begin(), all.end(), g.first_layer);
  return all;
}

/// Lists of one score a head → one list, or one a KV head.
std::vector<std::vector<double>> combine(const std::vector<std::vector<double>>& by_head, int n_head_kv,
                                         Heads heads) {
  const size_t share = by_head.size() / static_cast<size_t>(n_head_kv);
  const size_t lists = heads == Heads::kPerKv ? static_cast<size_t>(n_head_kv) : 1;
  std::vector<std::vector<double>> out(lists, std::vector<double>(by_head[0].size(), 0.0));
  for (size_t h = 0; h < by_head.size(); ++h)
    for (size_t j = 0; j < by_head[h].size(); ++j) {
      auto& x = out[heads == Heads::kPerKv ? h / share : 0][j];
      if (heads == Heads::kMax)
        x = std::max(x, by_head[h][j]);
      else
        x += by_head[h][j] / static_cast<double>(heads == Heads::kPerKv ? share : by_head.size());
    }
  return out;
}

std::vector<double> window_scores(const std::vector<double>& received, int64_t review,
                                  const SelectionConfig& c) {
  std::vector<double> out;
  for (int64_t first = 0; first < review; first += c.omega) {
    std::vector<double> w(received.begin() + first, received.begin() + std::min(review, first + c.omega));
    std::sort(w.rbegin(), w.rend());
    w.resize(std::min<size_t>(w.size(), static_cast<size_t>(c.p)));
    out.push_back(std::accumulate(w.begin(), w.end(), 0.0) / static_cast<double>(w.size()));
  }
  return out;
}

std::vector<double> run_scores(const std::vector<double>& s, int omega) {
  int64_t reach = 1;
  while (reach <= omega) reach *= 2;
  std::vector<double> out(s.size(), 0.0);
  for (size_t j = 0; j < s.size(); ++j) {
    for (size_t d = 0; d < static_cast<size_t>(reach) && d <= j; ++d)
      out[j] = std::max(out[j], s[j - d] * std::exp2(-2.0 * static_cast<double>(d) / omega));
    if (j + 1 < s.size()) out[j] = std::max(out[j], s[j + 1] / 2);
  }
  return out;
}

/// The scores a group is chosen by: of windows on the grid, of the tokens between `first` and `end` else.
std::vector<std::vector<double>> group_scores(const Recorded& r, const SelectionConfig& c, const Group& g,
                                              int64_t first, int64_t end) {
  std::vector<std::vector<double>> sum;
  for (int layer : deciding(c, g)) {
    std::vector<std::vector<double>> by_head;
    for (int h = 0; h < r.n_head; ++h) {
      const auto received = r.received(layer, h, c.rows);
      if (c.windows == Windows::kGrid)
        by_head.push_back(window_scores(received, end, c));
      else
        by_head.emplace_back(received.begin() + first, received.begin() + end);
    }
    auto lists = combine(by_head, r.n_head_kv, c.heads);
    if (c.windows == Windows::kFree)
      for (auto& list : lists) list = run_scores(list, c.omega);
    if (sum.empty()) sum.assign(lists.size(), std::vector<double>(lists[0].size(), 0.0));
    for (size_t l = 0; l < lists.size(); ++l)
      for (size_t j = 0; j < lists[l].size(); ++j) sum[l][j] += lists[l][j];
  }
  return sum;
}

std::vector<float> next_logits(Engine& engine, Sequence& sequence) {
  const auto logits = engine.decode(sequence, 9);
  return {logits.begin(), logits.end()};
}

TEST(Deciders, KeepWhatPlainLoopsChoose) {
  const auto model = load(seven_layers_path());
  Engine engine(*model, {.chunk = 64});
  const auto recorded = record(engine, *model, prompt(), 16);
  const int64_t budget = 40;
  for (const auto& c : all_configs()) {
    SCOPED_TRACE(text(c));
    Sequence sequence;
    engine.prefill(sequence, prompt(), *windowkv_policy(Budget::tokens(budget), c));
    const auto kept = kept_by_layer(sequence);
    ASSERT_EQ(kept.size(), 7u);
    for (const auto& g : make_groups(7, c.gamma)) {
      SCOPED_TRACE(fmt::format("layers {} to {}", g.first_layer, g.last_layer));
      for (int layer = g.first_layer; layer <= g.last_layer; ++layer)
        EXPECT_EQ(kept[static_cast<size_t>(layer)], kept[static_cast<size_t>(g.first_layer)]);
      const auto& lists = kept[static_cast<size_t>(g.first_layer)];
      ASSERT_EQ(lists.size(), c.heads == Heads::kPerKv ? 2u : 1u);
      if (c.windows == Windows::kGrid) {
        // 40 tokens: the last 16, and ⌊24/ω⌋ windows.
        const auto group = std::find_if(sequence.groups.begin(), sequence.groups.end(),
                                        [&](const auto& s) { return s.group.first_layer == g.first_layer; });
        expect_highest(group->windows, group_scores(recorded, c, g, 0, kTokens - 16)[0], 0, 24 / c.omega);
        std::vector<int32_t> tokens;
        for (int64_t w : group->windows)
          for (int64_t i = w * c.omega; i < std::min((w + 1) * c.omega, kTokens - 16); ++i)
            tokens.push_back(static_cast<int32_t>(i));
        for (int64_t i = kTokens - 16; i < kTokens; ++i) tokens.push_back(static_cast<int32_t>(i));
        EXPECT_EQ(lists[0], tokens);
        continue;
      }
      // 40 tokens: 4 sinks, the last 8, and 28 between.
      const auto scores = group_scores(recorded, c, g, 4, kTokens - 8);
      for (size_t l = 0; l < lists.size(); ++l) {
        EXPECT_EQ(lists[l].size(), 40u);
        EXPECT_TRUE(std::is_sorted(lists[l].begin(), lists[l].end()));
        EXPECT_EQ(lists[l][3], 3);
        EXPECT_EQ(lists[l][32], kTokens - 8);
        expect_highest(lists[l], scores[l], 4, 28);
      }
    }
    // The caches hold those tokens of those layers: layers that waited took turns in the scratch.
    Sequence same;
    engine.prefill(same, prompt(), *fixed_policy(kept));
    EXPECT_EQ(sequence.kept, same.kept);
    EXPECT_EQ(next_logits(engine, sequence), next_logits(engine, same));
  }
}

TEST(Deciders, WeighTheQueriesOfTheWholePromptAsPlainLoopsDo) {
  const auto model = load(seven_layers_path());
  const auto recorded = [&](int64_t rows) {
    Engine engine(*model, {.chunk = 64});
    return record(engine, *model, prompt(), rows);
  };
  const auto end = recorded(16), all = recorded(kTokens);
  Engine engine(*model, {.chunk = 64});
  constexpr int64_t kFirst = 4, kEnd = kTokens - 8;  // between sinks and recent tokens
  auto shares = [](std::vector<double> scores) {
    const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
    for (auto& x : scores) x /= sum;
    return scores;
  };
  for (auto heads : {Heads::kMean, Heads::kPerKv})
    for (auto decider : {Decider::kFirst, Decider::kAll})
      for (int weight : {30, 100}) {
        SelectionConfig c;
        c.windows = Windows::kFree;
        c.heads = heads;
        c.decider = decider;
        c.gamma = 2;
        c.spread = 7;
        c.spread_weight = weight;
        c.pyramid = Pyramid::kFlat;
        SCOPED_TRACE(fmt::format("{}, weight {}", text(c), weight));
        Sequence sequence;
        engine.prefill(sequence, prompt(), *windowkv_policy(Budget::tokens(40), c));
        const auto kept = kept_by_layer(sequence);
        for (const auto& g : make_groups(7, c.gamma)) {
          std::vector<std::vector<double>> sum;
          for (int layer : deciding(c, g)) {
            SelectionConfig alone = c;
            alone.gamma = 1;
            auto lists = group_scores(end, alone, {layer, layer}, kFirst, kEnd);
            std::vector<std::vector<double>> by_head;
            for (int h = 0; h < all.n_head; ++h) {
              std::vector<double> received(static_cast<size_t>(kEnd - kFirst), 0.0);
              for (int64_t row = 6; row < kTokens; row += 7) {
                const auto a = all.attention(layer, h, row);
                for (size_t j = 0; j < received.size(); ++j) received[j] += a[j + kFirst];
              }
              by_head.push_back(std::move(received));
            }
            const auto spread = combine(by_head, all.n_head_kv, c.heads);
            sum.resize(lists.size(), std::vector<double>(lists[0].size(), 0.0));
            for (size_t l = 0; l < lists.size(); ++l) {
              const auto a = shares(lists[l]), b = shares(spread[l]);
              for (size_t j = 0; j < a.size(); ++j)
                sum[l][j] += (a[j] * (100 - weight) + b[j] * weight) / 100;
            }
          }
          const auto& lists = kept[static_cast<size_t>(g.first_layer)];
          ASSERT_EQ(lists.size(), sum.size());
          for (size_t l = 0; l < lists.size(); ++l) expect_highest(lists[l], sum[l], kFirst, 28);
        }
      }
}

TEST(Deciders, DifferFromEachOther) {
  // Else the test above would say nothing of who decides.
  const auto model = load(seven_layers_path());
  Engine engine(*model);
  auto kept = [&](Decider decider, Heads heads, Rows rows) {
    SelectionConfig c;
    c.windows = Windows::kFree;
    c.gamma = 3;
    c.decider = decider;
    c.heads = heads;
    c.rows = rows;
    Sequence sequence;
    engine.prefill(sequence, prompt(), *windowkv_policy(Budget::tokens(40), c));
    return kept_by_layer(sequence);
  };
  const auto base = kept(Decider::kFirst, Heads::kMean, Rows::kSum);
  EXPECT_NE(kept(Decider::kLast, Heads::kMean, Rows::kSum), base);
  EXPECT_NE(kept(Decider::kAll, Heads::kMean, Rows::kSum), base);
  EXPECT_NE(kept(Decider::kFirst, Heads::kMax, Rows::kSum), base);
  EXPECT_NE(kept(Decider::kFirst, Heads::kMean, Rows::kMax), base);
  const auto by_kv = kept(Decider::kFirst, Heads::kPerKv, Rows::kSum);
  EXPECT_NE(by_kv[0][0], by_kv[0][1]);
}

TEST(Deciders, OnePrefillForAllGivesWhatSeparateOnesGive) {
  const auto model = load(seven_layers_path());
  Engine engine(*model, {.chunk = 64});
  std::vector<std::unique_ptr<Policy>> owned;
  owned.push_back(full_policy());
  owned.push_back(make_policy("snapkv", {Budget::tokens(50), {}}));
  for (const auto& c : all_configs())
    if (c.rows == Rows::kMax) owned.push_back(windowkv_policy(Budget::tokens(50), c));
  std::vector<const Policy*> policies;
  policies.reserve(owned.size());
  for (const auto& policy : owned) policies.push_back(policy.get());
  std::vector<Sequence> together(policies.size());
  engine.prefill(together, prompt(), policies);
  for (size_t i = 0; i < policies.size(); ++i) {
    if (const auto* c = policies[i]->config()) SCOPED_TRACE(text(*c));
    Sequence alone;
    engine.prefill(alone, prompt(), *policies[i]);
    EXPECT_EQ(together[i].kept, alone.kept);
    EXPECT_EQ(kept_by_layer(together[i]), kept_by_layer(alone));
    EXPECT_EQ(next_logits(engine, together[i]), next_logits(engine, alone)) << i;
  }
}

TEST(Deciders, ChunksChangeWhatIsKeptByNoMoreThanRounding) {
  // ggml's attention keeps its sums in F16 for few queries, so that tokens of nearly equal scores may change
  // places.
  const auto model = load(seven_layers_path());
  Engine whole(*model, {.chunk = 150});
  for (const auto& c : all_configs()) {
    if (c.gamma != 3 || c.rows != Rows::kMax) continue;
    SCOPED_TRACE(text(c));
    const auto policy = windowkv_policy(Budget::tokens(40), c);
    Sequence expected;
    whole.prefill(expected, prompt(), *policy);
    for (int chunk : {7, 149, 512}) {
      Engine engine(*model, {.chunk = chunk});
      Sequence sequence;
      engine.prefill(sequence, prompt(), *policy);
      const auto a = kept_by_layer(sequence);
      const auto b = kept_by_layer(expected);
      for (size_t layer = 0; layer < a.size(); ++layer)
        for (size_t h = 0; h < a[layer].size(); ++h) {
          std::vector<int32_t> both;
          std::set_intersection(a[layer][h].begin(), a[layer][h].end(), b[layer][h].begin(),
                                b[layer][h].end(), std::back_inserter(both));
          EXPECT_GE(both.size(), b[layer][h].size() * 9 / 10) << "chunk " << chunk << " layer " << layer;
        }
    }
  }
}

TEST(Deciders, AGroupOfManyLayersAndHeadsIsScoredInOne) {
  RandomModel m;
  m.n_layer = 24;
  m.n_head = 16;
  m.n_head_kv = 8;
  m.d_head = 8;
  m.n_embd = 64;
  const auto model = load(random_model_path("deep", m));
  Engine engine(*model);
  for (auto windows : {Windows::kGrid, Windows::kFree}) {
    SelectionConfig c;
    c.windows = windows;
    c.heads = Heads::kMax;
    c.rows = Rows::kMax;
    c.decider = Decider::kAll;
    c.gamma = 24;
    Sequence sequence;
    engine.prefill(sequence, random_tokens(80, 256), *windowkv_policy(Budget::tokens(32), c));
    const auto recorded = record(engine, *model, random_tokens(80, 256), 16);
    const auto kept = kept_by_layer(sequence);
    ASSERT_EQ(kept.size(), 24u);
    if (windows == Windows::kFree)
      expect_highest(kept[23][0], group_scores(recorded, c, {0, 23}, 4, 72)[0], 4, 20);
    else
      expect_highest(sequence.groups[0].windows, group_scores(recorded, c, {0, 23}, 0, 64)[0], 0, 2);
  }
}

}  // namespace
}  // namespace windowkv::test
