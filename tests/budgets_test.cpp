// Budgets of free windows and of measured layers, and the memory that waiting layers take.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <random>

#include "support/models.h"
#include "support/recorded.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

SelectionConfig free_windows() {
  SelectionConfig c;
  c.windows = Windows::kFree;
  c.pyramid = Pyramid::kFlat;
  return c;
}

int64_t sum_over_layers(std::span<const int64_t> by_group, std::span<const Group> groups) {
  int64_t total = 0;
  for (size_t i = 0; i < groups.size(); ++i) total += by_group[i] * groups[i].size();
  return total;
}

TEST(AlwaysKept, SinksAreAtMostAnEighthAndRecentAQuarterOfTheBudget) {
  auto c = free_windows();  // 4 sinks, 8 recent
  auto kept = [&](int64_t n, int64_t budget) {
    const auto a = always_kept(c, n, budget);
    return std::array<int64_t, 2>{a.sinks, a.recent};
  };
  EXPECT_EQ(kept(1000, 120), (std::array<int64_t, 2>{4, 8}));
  EXPECT_EQ(kept(1000, 32), (std::array<int64_t, 2>{4, 8}));
  EXPECT_EQ(kept(1000, 31), (std::array<int64_t, 2>{3, 7}));
  EXPECT_EQ(kept(1000, 8), (std::array<int64_t, 2>{1, 2}));
  EXPECT_EQ(kept(1000, 7), (std::array<int64_t, 2>{0, 1}));
  EXPECT_EQ(kept(1000, 1), (std::array<int64_t, 2>{0, 1}));  // the last token stays
  EXPECT_EQ(kept(1000, 0), (std::array<int64_t, 2>{0, 0}));
  EXPECT_EQ(kept(3, 1000), (std::array<int64_t, 2>{0, 1}));  // a budget is at most the prompt
  c.sinks = c.recent = 0;
  EXPECT_EQ(kept(1000, 120), (std::array<int64_t, 2>{0, 0}));
  c.windows = Windows::kGrid;  // the observation window, whatever the numbers above
  EXPECT_EQ(kept(1000, 120), (std::array<int64_t, 2>{0, 16}));
  EXPECT_EQ(kept(1000, 5), (std::array<int64_t, 2>{0, 5}));
}

TEST(MeasuredBudgets, GoByTheSharesOfTheGroupsLayers) {
  auto c = free_windows();
  c.pyramid = Pyramid::kMeasured;
  c.sinks = c.recent = 0;
  auto budgets = [&](int64_t n, int64_t budget, std::vector<double> shares) {
    return group_budgets(c, static_cast<int>(shares.size()), n, budget, shares);
  };
  EXPECT_EQ(budgets(1000, 100, {0.25, 0.25, 0.5, 3}), (std::vector<int64_t>{25, 25, 50, 300}));
  EXPECT_EQ(budgets(1000, 100, {1, 1, 2, 12}), (std::vector<int64_t>{25, 25, 50, 300}));  // only ratios count
  // The last would get 300 and has room for 200; the other 200 are shared out as 1 to 1 to 2.
  EXPECT_EQ(budgets(200, 100, {0.25, 0.25, 0.5, 3}), (std::vector<int64_t>{50, 50, 100, 200}));
  // 40 and what comes of the rest, in three rounds: 40 and 40, then (90 − 80) to the first.
  EXPECT_EQ(budgets(40, 30, {0.1, 1.4, 1.5}), (std::vector<int64_t>{10, 40, 40}));
  EXPECT_EQ(budgets(50, 50, {0.1, 1.9}), (std::vector<int64_t>{50, 50}));
  c.gamma = 2;
  EXPECT_EQ(budgets(1000, 100, {0.5, 1.5, 0.25, 1.75, 1}), (std::vector<int64_t>{100, 100, 100}));
  EXPECT_EQ(budgets(1000, 100, {0.5, 0.5, 1, 1, 2}), (std::vector<int64_t>{50, 100, 200}));
  c.sinks = 4, c.recent = 8;  // counted in the budget, and the same in every layer
  EXPECT_EQ(budgets(1000, 112, {0.5, 0.5, 1, 1, 2}), (std::vector<int64_t>{50, 100, 200}));
  EXPECT_EQ(group_budgets(c, 5, 1000, 112), (std::vector<int64_t>{100, 100, 100}));  // not measured: flat
}

struct Shape {
  int64_t n = 0;
  int64_t budget = 0;
  int n_layer = 0;
  SelectionConfig config = free_windows();
  std::vector<double> shares;

  std::string text() const {
    return fmt::format("n={} layers={} budget={} γ={} sinks={} recent={} pyramid={}{}", n, n_layer, budget,
                       config.gamma, config.sinks, config.recent, to_string(config.pyramid),
                       shares.empty() ? "" : " with shares");
  }
};

Shape random_shape(std::mt19937_64& random) {
  auto below = [&](int64_t most) { return static_cast<int64_t>(random() % static_cast<uint64_t>(most)); };
  Shape s;
  s.n = 1 + below(std::array<int64_t, 4>{5, 40, 300, 5000}[static_cast<size_t>(below(4))]);
  s.budget = below(3) == 0 ? std::min<int64_t>(s.n, 1 + below(20)) : 1 + below(s.n);
  s.n_layer = 1 + static_cast<int>(below(40));
  s.config.gamma = 1 + static_cast<int>(below(8));
  s.config.lambda = 1 + static_cast<int>(below(20));
  s.config.sinks = static_cast<int>(below(10));
  s.config.recent = static_cast<int>(below(40));
  s.config.pyramid = std::array{Pyramid::kCode, Pyramid::kPaper, Pyramid::kFlat,
                                Pyramid::kMeasured}[static_cast<size_t>(below(4))];
  if (below(4) != 0) {
    s.shares.resize(static_cast<size_t>(s.n_layer));
    for (auto& share : s.shares) share = std::exp2(static_cast<double>(below(1200)) / 100 - 6);
  }
  return s;
}

TEST(FreeBudgets, AreNeverExceededAndUsedUpToATokenOrTwoALayer) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 20000 && !testing::Test::HasFailure(); ++round) {
    const auto s = random_shape(random);
    SCOPED_TRACE(s.text());
    const auto policy = windowkv_policy(Budget::tokens(s.budget), s.config);
    const auto selector = policy->start({s.n, s.n_layer, 4, 2, 16, s.shares});
    int64_t total = 0;
    for (int layer = 0; layer < s.n_layer; ++layer) {
      const int64_t kept = selector->capacity(layer);
      EXPECT_GE(kept, s.config.recent > 0 ? 1 : 0);  // the last token, at the least
      EXPECT_LE(kept, s.n);
      total += kept;
    }
    EXPECT_LE(total, s.budget * s.n_layer);
    const bool falls = s.config.pyramid == Pyramid::kCode || s.config.pyramid == Pyramid::kPaper;
    EXPECT_GE(total, (s.budget - (falls ? 2 : 1)) * s.n_layer);
  }
}

TEST(FreeBudgets, OfTheWholePromptKeepEverything) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 5000 && !testing::Test::HasFailure(); ++round) {
    auto s = random_shape(random);
    s.budget = s.n;
    SCOPED_TRACE(s.text());
    const auto policy = windowkv_policy(Budget::percent(100), s.config);
    const auto selector = policy->start({s.n, s.n_layer, 4, 2, 16, s.shares});
    for (int layer = 0; layer < s.n_layer; ++layer) {
      EXPECT_EQ(selector->capacity(layer), s.n);
      EXPECT_FALSE(selector->decides(layer));
    }
  }
}

TEST(MeasuredBudgets, WhatAGroupCannotUseGoesToTheOthersAndMoreShareIsNotLess) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 20000 && !testing::Test::HasFailure(); ++round) {
    auto s = random_shape(random);
    if (s.shares.empty()) continue;
    s.config.pyramid = Pyramid::kMeasured;
    SCOPED_TRACE(s.text());
    const auto groups = make_groups(s.n_layer, s.config.gamma);
    const int64_t always = always_kept(s.config, s.n, s.budget).total();
    const auto budgets = group_budgets(s.config, s.n_layer, s.n, s.budget, s.shares);
    EXPECT_LE(sum_over_layers(budgets, groups), (s.budget - always) * s.n_layer);
    EXPECT_GE(sum_over_layers(budgets, groups), (s.budget - always - 1) * s.n_layer);
    std::vector<double> share;
    for (const auto& g : groups)
      share.push_back(
          std::accumulate(s.shares.begin() + g.first_layer, s.shares.begin() + g.last_layer + 1, 0.0) /
          g.size());
    for (size_t a = 0; a < groups.size(); ++a) {
      EXPECT_LE(budgets[a], s.n - always);
      for (size_t b = 0; b < groups.size(); ++b) {
        if (share[a] <= share[b]) {
          EXPECT_LE(budgets[a], budgets[b]) << "groups " << a << " and " << b;
        }
      }
    }
    // A layer that needs more than it did gets no less.
    const auto layer = static_cast<size_t>(random() % s.shares.size());
    s.shares[layer] *= 1.5;
    const auto after = group_budgets(s.config, s.n_layer, s.n, s.budget, s.shares);
    EXPECT_GE(after[layer / static_cast<size_t>(s.config.gamma)],
              budgets[layer / static_cast<size_t>(s.config.gamma)]);
  }
}

TEST(FreeWindows, KeepTheBudgetHoweverSmallItOrThePromptIs) {
  const auto model = load(random_model_path("two_layers", {}));
  Engine engine(*model);
  for (int64_t n : {1, 2, 3, 4, 5, 15, 16, 17, 60})
    for (const char* budget :
         {"1", "2", "3", "4", "5", "7", "8", "12", "16", "20", "1%", "12%", "99%", "100%"})
      for (auto decider : {Decider::kFirst, Decider::kLast, Decider::kAll})
        for (auto heads : {Heads::kMax, Heads::kPerKv}) {
          SCOPED_TRACE(fmt::format("n {} budget {} decide {} heads {}", n, budget, to_string(decider),
                                   to_string(heads)));
          auto c = make_config("default", Task::kLocalization, 2);
          c.gamma = 2;
          c.decider = decider;
          c.heads = heads;
          const auto wanted = Budget::parse(budget);
          Sequence sequence;
          engine.prefill(sequence, random_tokens(n, 256), *windowkv_policy(wanted, c));
          EXPECT_EQ(sequence.kept, (std::vector<int64_t>(2, wanted.resolve(n))));
          for (const auto& layer : kept_by_layer(sequence))
            for (const auto& head : layer) {
              EXPECT_EQ(static_cast<int64_t>(head.size()), wanted.resolve(n));
              EXPECT_TRUE(std::is_sorted(head.begin(), head.end(), std::less_equal<>()));
              if (!head.empty()) {
                EXPECT_EQ(head.back(), n - 1);
              }
            }
          for (float x : engine.decode(sequence, 3)) ASSERT_TRUE(std::isfinite(x));
        }
}

TEST(FreeWindows, FullBudgetIsTheFullCache) {
  const auto model = load(random_model_path("two_layers", {}));
  Engine engine(*model);
  const auto prompt = random_tokens(90, 256);
  auto next = [&](const Policy& policy) {
    Sequence sequence;
    engine.prefill(sequence, prompt, policy);
    const auto logits = engine.decode(sequence, 3);
    return std::vector<float>(logits.begin(), logits.end());
  };
  const auto expected = next(*full_policy());
  for (auto decider : {Decider::kFirst, Decider::kLast, Decider::kAll}) {
    auto c = make_config("default", Task::kLocalization, 2);
    c.gamma = 2;
    c.decider = decider;
    EXPECT_EQ(next(*windowkv_policy(Budget::percent(100), c)), expected);
  }
}

TEST(FreeWindows, LayerSharesOfTheModelDecideWhatItsLayersKeep) {
  // Through the engine: a calibration's shares reach the policy.
  RandomModel m;
  m.n_layer = 4;
  const auto path = random_model_path("four_layers", m);
  const auto file = path + ".shares.json";
  const auto fingerprint = load(path)->hparams().fingerprint;
  {
    std::FILE* out = std::fopen(file.c_str(), "w");
    ASSERT_NE(out, nullptr);
    fmt::print(out, R"({{"model": "random 1", "fingerprint": "{}", "layer_shares": [0.5, 0.5, 1, 2]}})",
               fingerprint);
    std::fclose(out);
  }
  ModelOptions options;
  options.device = "cpu";
  options.threads = 1;
  options.calibration = file;
  const auto model = Model::load(path, options);
  Engine engine(*model);
  Sequence sequence;
  const auto config = make_config("default", Task::kLocalization, 4);
  engine.prefill(sequence, random_tokens(400, 256), *windowkv_policy(Budget::tokens(52), config));
  // 52 less 4 sinks and 8 recent: 40 a layer, by half, half, one and two.
  EXPECT_EQ(sequence.kept, (std::vector<int64_t>{12 + 20, 12 + 20, 12 + 40, 12 + 80}));
}

TEST(MemoryPlan, HoldsForLayersThatWait) {
  RandomModel m;
  m.n_layer = 5;
  const auto model = load(random_model_path("five_waiting_layers", m));
  const int64_t row = model->hparams().kv_layer_bytes_per_token();
  Engine engine(*model, {.chunk = 64});
  for (auto windows : {Windows::kGrid, Windows::kFree})
    for (auto decider : {Decider::kFirst, Decider::kLast, Decider::kAll})
      for (int gamma : {1, 2, 3, 5, 9})
        for (const char* budget : {"1", "12%", "60%", "100%"})
          for (int64_t n : {1, 20, 200}) {
            SCOPED_TRACE(fmt::format("{} {} γ {} budget {} n {}", to_string(windows), to_string(decider),
                                     gamma, budget, n));
            SelectionConfig c;
            c.windows = windows;
            c.decider = decider;
            c.gamma = gamma;
            const auto policy = windowkv_policy(Budget::parse(budget), c);
            Sequence sequence;
            PrefillOptions options;
            options.reserve = 7;
            engine.prefill(sequence, random_tokens(n, 256), *policy, options);
            const auto plan = engine.plan(n, *policy, 7);
            EXPECT_LE(sequence.bytes.peak, plan.peak_kv());
            EXPECT_GE(sequence.bytes.peak, sequence.bytes.kept);
            const auto drops = std::count_if(sequence.kept.begin(), sequence.kept.end(),
                                             [&](int64_t kept) { return kept < n; });
            const int64_t waiting = decider == Decider::kFirst ? 1 : std::min(gamma, 5);
            EXPECT_EQ(plan.kv_scratch, drops > 0 ? waiting * n * row : 0);
            if (drops == 5) {
              EXPECT_EQ(sequence.bytes.peak, plan.peak_kv());
            }
          }
}

}  // namespace
}  // namespace windowkv::test
