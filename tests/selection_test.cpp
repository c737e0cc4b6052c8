// Budgets and what is kept: arithmetic on random shapes, then end to end on a tiny model.
#include "windowkv/selection.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include "cache/kv_cache.h"
#include "support/models.h"
#include "support/recorded.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"
#include "windowkv/policy.h"

namespace windowkv::test {
namespace {

struct Shape {
  int64_t n = 0;
  int n_layer = 0;
  int64_t budget = 0;
  SelectionConfig config;

  std::string text() const {
    return fmt::format("n={} layers={} budget={} ω={} α={} γ={} λ={} pyramid={}{}", n, n_layer, budget,
                       config.omega, config.alpha, config.gamma, config.lambda, to_string(config.pyramid),
                       config.reference ? " reference" : "");
  }
};

Shape random_shape(std::mt19937_64& random) {
  auto below = [&](int64_t most) { return static_cast<int64_t>(random() % static_cast<uint64_t>(most)); };
  auto pick = [&](std::initializer_list<int> list) {
    return list.begin()[below(static_cast<int64_t>(list.size()))];
  };
  Shape s;
  s.config.omega = pick({1, 2, 7, 8, 16, 32, 100});
  s.config.alpha = pick({1, 4, 16, 32, 64});
  s.config.p = std::max(1, s.config.omega / pick({1, 2}));
  s.config.gamma = pick({1, 2, 3, 4, 7, 8, 50});
  s.config.lambda = pick({1, 2, 7, 14, 40});
  s.config.pyramid =
      std::array{Pyramid::kCode, Pyramid::kPaper, Pyramid::kFlat}[static_cast<size_t>(below(3))];
  s.n_layer = 1 + static_cast<int>(below(below(2) ? 8 : 40));
  // Short prompts as often as long ones: n < α, n = α, n < ω ...
  s.n = 1 + below(pick({4, 40, 300, 5000}));
  if (below(10) == 0) s.n = s.config.alpha;
  switch (below(5)) {
    case 0:
      s.budget = below(s.config.alpha + 1);
      break;
    case 1:
      s.budget = s.n;
      break;
    case 2:
      s.budget = Budget::percent(12).resolve(s.n);
      break;
    default:
      s.budget = below(s.n + 1);
      break;
  }
  s.budget = std::min(s.budget, s.n);
  return s;
}

std::unique_ptr<Selector> start(const Shape& s, const Policy& policy) {
  return policy.start({s.n, s.n_layer, 4, 2, 16});
}

/// Runs a selector without a model: windows that "win" are drawn at random.
std::vector<std::vector<int32_t>> kept_positions(const Shape& s, std::mt19937_64& random) {
  const auto policy = windowkv_policy(Budget::tokens(s.budget), s.config);
  const auto selector = start(s, *policy);
  const int64_t review = s.n - selector->observation();
  std::vector<std::vector<int32_t>> kept;
  for (int layer = 0; layer < s.n_layer; ++layer) {
    std::vector<int32_t> picked;
    if (selector->decides(layer)) {
      const auto budgets = group_budgets(s.config, s.n_layer, s.n, s.budget);
      const auto keep = windows_kept(s.config, review, budgets[static_cast<size_t>(layer / s.config.gamma)]);
      picked.resize(static_cast<size_t>(window_count(s.config, review)));
      std::iota(picked.begin(), picked.end(), 0);
      std::shuffle(picked.begin(), picked.end(), random);
      picked.resize(static_cast<size_t>(keep));
      std::sort(picked.begin(), picked.end());
    }
    kept.push_back(selector->choose(layer, picked).front());
    EXPECT_LE(static_cast<int64_t>(kept.back().size()), selector->capacity(layer));
  }
  return kept;
}

TEST(SelectionProperties, KeptTokensNeverExceedTheBudget) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 20000 && !testing::Test::HasFailure(); ++round) {
    const auto s = random_shape(random);
    SCOPED_TRACE(s.text());
    s.config.validate();
    const auto kept = kept_positions(s, random);
    int64_t total = 0;
    for (const auto& layer : kept) {
      total += static_cast<int64_t>(layer.size());
      EXPECT_TRUE(std::is_sorted(layer.begin(), layer.end(), std::less_equal<>()));  // strictly ascending
      if (!layer.empty()) {
        EXPECT_GE(layer.front(), 0);
        EXPECT_LT(layer.back(), s.n);
      }
      // The observation window, cut to the budget, is always there and last.
      const int64_t observation = observation_tokens(s.config, s.n, s.budget);
      ASSERT_GE(static_cast<int64_t>(layer.size()), observation);
      for (int64_t i = 0; i < observation; ++i)
        EXPECT_EQ(layer[layer.size() - static_cast<size_t>(i) - 1], s.n - 1 - i);
    }
    EXPECT_LE(total, s.budget * s.n_layer);
  }
}

TEST(SelectionProperties, CapacityNeverExceedsTheBudgetByMoreThanTheShortLastWindow) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 20000 && !testing::Test::HasFailure(); ++round) {
    const auto s = random_shape(random);
    SCOPED_TRACE(s.text());
    const auto policy = windowkv_policy(Budget::tokens(s.budget), s.config);
    const auto selector = start(s, *policy);
    int64_t total = 0;
    for (int layer = 0; layer < s.n_layer; ++layer) {
      EXPECT_GE(selector->capacity(layer), 0);
      EXPECT_LE(selector->capacity(layer), s.n);
      total += selector->capacity(layer);
    }
    EXPECT_LE(total, s.budget * s.n_layer);
  }
}

TEST(SelectionProperties, LayersOfAGroupKeepTheSameTokens) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 2000 && !testing::Test::HasFailure(); ++round) {
    const auto s = random_shape(random);
    SCOPED_TRACE(s.text());
    const auto kept = kept_positions(s, random);
    for (const auto& group : make_groups(s.n_layer, s.config.gamma))
      for (int layer = group.first_layer; layer <= group.last_layer; ++layer)
        EXPECT_EQ(kept[static_cast<size_t>(layer)], kept[static_cast<size_t>(group.first_layer)]);
  }
}

TEST(SelectionProperties, BudgetOfTheWholePromptKeepsEverything) {
  std::mt19937_64 random(4);
  for (int round = 0; round < 20000 && !testing::Test::HasFailure(); ++round) {
    auto s = random_shape(random);
    s.budget = s.n;
    SCOPED_TRACE(s.text());
    const auto policy = windowkv_policy(Budget::percent(100), s.config);
    const auto selector = start(s, *policy);
    for (int layer = 0; layer < s.n_layer; ++layer)
      EXPECT_EQ(selector->capacity(layer), s.n) << "layer " << layer;
  }
}

TEST(SelectionProperties, EvenBudgetsWasteLessThanAWindowALayer) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 5000 && !testing::Test::HasFailure(); ++round) {
    auto s = random_shape(random);
    s.config.pyramid = Pyramid::kFlat;
    SCOPED_TRACE(s.text());
    const auto kept = kept_positions(s, random);
    for (const auto& layer : kept) {
      EXPECT_GT(static_cast<int64_t>(layer.size()), s.budget - 2 * s.config.omega);
    }
  }
}

TEST(SelectionProperties, ReferenceKeepsTheObservationOnTopAndUpToAWindowMore) {
  std::mt19937_64 random(6);
  for (int round = 0; round < 5000 && !testing::Test::HasFailure(); ++round) {
    auto s = random_shape(random);
    s.config.reference = true;
    SCOPED_TRACE(s.text());
    const auto budgets = group_budgets(s.config, s.n_layer, s.n, s.budget);
    const int64_t observation = std::min<int64_t>(s.config.alpha, s.n);
    const auto kept = kept_positions(s, random);
    for (int layer = 0; layer < s.n_layer; ++layer) {
      const auto size = static_cast<int64_t>(kept[static_cast<size_t>(layer)].size());
      const int64_t most = std::max<int64_t>(0, budgets[static_cast<size_t>(layer / s.config.gamma)]);
      EXPECT_LE(size, std::min(s.n, most + observation + s.config.omega - 1));
    }
  }
}

TEST(SelectionProperties, WindowsKept) {
  SelectionConfig c;
  c.omega = 8;
  EXPECT_EQ(window_count(c, 0), 0);
  EXPECT_EQ(window_count(c, 1), 1);
  EXPECT_EQ(window_count(c, 17), 3);
  EXPECT_EQ(windows_kept(c, 17, 17), 3);  // nothing is dropped
  EXPECT_EQ(windows_kept(c, 17, 16), 2);
  EXPECT_EQ(windows_kept(c, 17, 7), 0);
  c.reference = true;
  EXPECT_EQ(windows_kept(c, 17, 16), 2);
  EXPECT_EQ(windows_kept(c, 17, 7), 1);  // drops ⌈10/8⌉ of 3
  EXPECT_EQ(windows_kept(c, 17, 0), 0);
}

TEST(SelectionProperties, Groups) {
  const auto groups = make_groups(7, 3);
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(groups[2].first_layer, 6);
  EXPECT_EQ(groups[2].last_layer, 6);
  EXPECT_EQ(make_groups(1, 8).size(), 1u);
}

TEST(SelectionProperties, PyramidOfThePaper) {
  SelectionConfig c;  // λ = 14
  c.alpha = 16;
  c.gamma = 7;
  const int64_t b = 140;
  auto budgets = [&] { return group_budgets(c, 28, 100000, b + 16); };
  c.pyramid = Pyramid::kCode;  // b_last = 140·7/14
  EXPECT_EQ(budgets(), (std::vector<int64_t>{210, 163, 116, 70}));
  c.pyramid = Pyramid::kPaper;  // b_last = 140/14
  EXPECT_EQ(budgets().front(), 270);
  EXPECT_EQ(budgets().back(), 10);
  c.pyramid = Pyramid::kFlat;
  EXPECT_EQ(budgets(), (std::vector<int64_t>{b, b, b, b}));
}

TEST(SelectionProperties, RangesOfPositions) {
  EXPECT_TRUE(to_ranges({}).empty());
  EXPECT_EQ(to_ranges({0, 1, 2, 5, 7, 8}), (std::vector<TokenRange>{{0, 3}, {5, 6}, {7, 9}}));
}

TEST(BudgetText, Good) {
  EXPECT_EQ(Budget::parse("512").resolve(10000), 512);
  EXPECT_EQ(Budget::parse("512").resolve(100), 100);
  EXPECT_EQ(Budget::parse("1").resolve(100), 1);
  EXPECT_EQ(Budget::parse("12%").resolve(100), 12);
  EXPECT_EQ(Budget::parse("12%").resolve(1000), 120);
  EXPECT_EQ(Budget::parse("12.5%").resolve(1000), 125);
  EXPECT_EQ(Budget::parse("0.1%").resolve(100), 0);
  EXPECT_EQ(Budget::parse("100%").resolve(77), 77);
  EXPECT_EQ(Budget::parse("12%").text(), "12%");
  EXPECT_EQ(Budget::parse("512").text(), "512");
  EXPECT_EQ(Budget::parse("2k").resolve(10000), 2048);
  EXPECT_EQ(Budget::parse("2K").text(), "2048");
  for (int64_t n = 1; n < 3000; ++n) EXPECT_EQ(Budget::parse("12%").resolve(n), n * 12 / 100) << n;
}

TEST(BudgetText, Floor) {
  const auto budget = Budget::parse("12%:1024");
  for (int64_t n : {1, 36, 183, 1023, 1024}) {
    EXPECT_EQ(budget.resolve(n), n);
    EXPECT_TRUE(budget.below_floor(n));
  }
  EXPECT_FALSE(budget.below_floor(1025));
  EXPECT_EQ(budget.resolve(1025), 1024);
  EXPECT_EQ(budget.resolve(8533), 1024);
  EXPECT_EQ(budget.resolve(8542), 1025);
  EXPECT_EQ(budget.resolve(16384), 1966);
  EXPECT_EQ(budget.text(), "12%:1024");
  EXPECT_EQ(Budget::parse("0.5%:64").text(), "0.5%:64");
  EXPECT_EQ(Budget::parse("12%:1k").text(), "12%:1024");
  EXPECT_EQ(Budget::parse(kDefaultBudget).text(), Budget().text());
  EXPECT_FALSE(Budget::parse("12%").below_floor(1));
  EXPECT_FALSE(Budget::parse("512").below_floor(1));
}

TEST(BudgetText, NothingIsDroppedUpToTheFloorUnderAnyPolicyAndPreset) {
  std::vector<std::pair<std::string, std::string>> all;
  for (const auto& name : policy_names()) all.emplace_back(name, "default");
  for (const auto& preset : preset_names()) all.emplace_back("windowkv", preset);
  for (const auto& [name, preset] : all)
    for (auto task : {Task::kLocalization, Task::kAggregation})
      for (int64_t n : {1, 7, 36, 183, 1000, 1024, 1025, 3000}) {
        SCOPED_TRACE(fmt::format("{} {} {} n {}", name, preset, to_string(task), n));
        constexpr int kLayers = 28;
        const auto policy =
            make_policy(name, {Budget::percent(12, 1024), make_config(preset, task, kLayers)});
        const auto selector =
            policy->start({.n = n, .n_layer = kLayers, .n_head = 12, .n_head_kv = 2, .d_head = 128});
        int64_t kept = 0;
        for (int layer = 0; layer < kLayers; ++layer) {
          kept += selector->capacity(layer);
          if (n <= 1024) {
            EXPECT_EQ(selector->capacity(layer), n);
            EXPECT_FALSE(selector->decides(layer));
          }
        }
        // What a head may keep at most is not what all of them keep.
        if (n > 1024 && name != "full" && !selector->heads_differ()) {
          EXPECT_LT(kept, n * kLayers);
        }
      }
}

TEST(BudgetText, Bad) {
  for (const char* text : {"",        "%",        "0",         "-1",     "0%",     "-5%",
                           "100.1%",  "101%",     "abc",       "12 %",   "12%%",   "1e999%",
                           "nan%",    "inf%",     "512x",      " 512",   "5.5",    "99999999999999999999",
                           "0x10",    "+5",       "12%:",      "12%:0",  "12%:-1", "12%:x",
                           "12%1024", "512:1024", "12%:1024:", "12%:5%", ":1024",  "k",
                           "0k",      "1.5k",     "2kk",       "2 k",    "12k%",   "99999999999999999k",
                           "12%:k"})
    EXPECT_THROW(Budget::parse(text), Error) << '"' << text << '"';
}

TEST(Presets, NumbersOfThePaper) {
  auto check = [](const char* preset, Task task, int omega, int alpha, int p, int gamma) {
    const auto c = make_config(preset, task, 32);
    EXPECT_EQ(c.omega, omega);
    EXPECT_EQ(c.alpha, alpha);
    EXPECT_EQ(c.p, p);
    EXPECT_EQ(c.gamma, gamma);
    EXPECT_EQ(c.lambda, 14);
    EXPECT_FALSE(c.reference);
  };
  check("llama3-8b", Task::kLocalization, 8, 16, 8, 8);
  check("llama3-8b", Task::kAggregation, 16, 32, 8, 8);
  check("qwen2.5-1.5b", Task::kLocalization, 32, 4, 32, 7);
  check("qwen2.5-1.5b", Task::kAggregation, 32, 16, 16, 7);
  check("paper", Task::kLocalization, 8, 16, 8, 8);
  EXPECT_TRUE(make_config("reference", Task::kLocalization, 32).reference);
  EXPECT_EQ(make_config("reference", Task::kLocalization, 32).p, 8);
  // The demo's reversal: top half for localization, the mean for aggregation.
  EXPECT_EQ(make_config("reference-demo", Task::kLocalization, 32).p, 4);
  EXPECT_EQ(make_config("reference-demo", Task::kAggregation, 32).p, 16);
}

TEST(Presets, DefaultIsFreeWindowsByHeadAndPaperIsAsPublished) {
  for (auto task : {Task::kLocalization, Task::kAggregation}) {
    const auto c = make_config("default", task, 32);
    EXPECT_EQ(c.windows, Windows::kFree);
    EXPECT_EQ(c.heads, Heads::kPerKv);
    EXPECT_EQ(c.decider, Decider::kFirst);
    EXPECT_EQ(c.rows, Rows::kMax);
    EXPECT_EQ(c.pyramid, Pyramid::kMeasured);
    EXPECT_EQ(c.gamma, 1);
    for (const auto& preset : preset_names()) {
      if (preset == "default") continue;
      const auto published = make_config(preset, task, 32);
      EXPECT_EQ(published.windows, Windows::kGrid) << preset;
      EXPECT_EQ(published.heads, Heads::kMean) << preset;
      EXPECT_EQ(published.decider, Decider::kFirst) << preset;
      EXPECT_EQ(published.rows, Rows::kSum) << preset;
      EXPECT_EQ(published.pyramid, Pyramid::kCode) << preset;
    }
  }
}

TEST(Presets, QueriesThatCountAreEveryEighthAndFewerThanThatInLongPrompts) {
  const auto c = make_config("default", Task::kAggregation, 32);
  EXPECT_EQ(spread_stride(c, 1), 8);
  EXPECT_EQ(spread_stride(c, 2055), 8);
  EXPECT_EQ(spread_stride(c, 2056), 16);
  EXPECT_EQ(spread_stride(c, 12000), 64);
  EXPECT_EQ(spread_stride(make_config("default", Task::kLocalization, 32), 12000), 0);
  SelectionOverrides asked;
  asked.spread = 8;
  EXPECT_EQ(spread_stride(make_config("default", Task::kAggregation, 32, asked), 12000), 8);
}

TEST(Presets, EveryPresetFitsEveryDepth) {
  for (const auto& preset : preset_names())
    for (int layers = 1; layers <= 100; ++layers)
      EXPECT_NO_THROW(make_config(preset, Task::kAggregation, layers)) << preset << layers;
}

TEST(Presets, OverridesAndErrors) {
  SelectionOverrides o;
  o.omega = 10;
  o.gamma = 3;
  auto c = make_config("paper", Task::kAggregation, 12, o);
  EXPECT_EQ(c.omega, 10);
  EXPECT_EQ(c.p, 5);
  EXPECT_EQ(c.gamma, 3);
  o.omega = 1;
  EXPECT_EQ(make_config("paper", Task::kAggregation, 12, o).p, 1);
  o.omega = 0;
  EXPECT_THROW(make_config("paper", Task::kAggregation, 12, o), Error);
  EXPECT_THROW(make_config("nonsense", Task::kAggregation, 12), Error);
  EXPECT_THROW(parse_task("qa"), Error);
  EXPECT_THROW(parse_pyramid(""), Error);
  EXPECT_THROW(parse_windows("fixed"), Error);
  EXPECT_THROW(parse_heads("min"), Error);
  EXPECT_THROW(parse_decider("middle"), Error);
  EXPECT_THROW(parse_rows("mean"), Error);
  EXPECT_THROW(make_policy("nonsense", {}), Error);
  SelectionConfig bad;
  bad.p = bad.omega + 1;
  EXPECT_THROW(make_policy("windowkv", {Budget::tokens(5), bad}), Error);
}

TEST(SelectionEndToEnd, CachesHoldWhatTheSelectorsSay) {
  std::mt19937_64 random(7);
  for (int n_layer : {1, 2, 5}) {
    RandomModel m;
    m.n_layer = n_layer;
    m.seed = static_cast<uint64_t>(n_layer);
    const auto model = load(random_model_path(fmt::format("layers{}", n_layer), m));
    Engine engine(*model, {.chunk = 64});
    for (int round = 0; round < 40 && !testing::Test::HasFailure(); ++round) {
      auto s = random_shape(random);
      s.n_layer = n_layer;
      s.n = std::min<int64_t>(s.n, 300);
      s.budget = std::min(s.budget, s.n);
      s.config.reference = round % 4 == 0;
      SCOPED_TRACE(s.text());
      const auto policy = windowkv_policy(Budget::tokens(s.budget), s.config);
      Sequence sequence;
      engine.prefill(sequence, random_tokens(s.n, m.n_vocab), *policy);
      ASSERT_EQ(sequence.kept.size(), static_cast<size_t>(n_layer));
      EXPECT_EQ(sequence.position, s.n);
      int64_t total = 0;
      for (const auto& g : sequence.groups) {
        EXPECT_TRUE(std::is_sorted(g.windows.begin(), g.windows.end(), std::less_equal<>()));
        int64_t count = 0;
        int64_t last = -1;
        for (auto [first, end] : g.kept) {
          EXPECT_GT(first, last);
          EXPECT_GT(end, first);
          last = end;
          count += end - first;
        }
        const int64_t observation = observation_tokens(s.config, s.n, s.budget);
        if (observation > 0) {
          ASSERT_FALSE(g.kept.empty());
          EXPECT_EQ(g.kept.back().second, s.n);
          EXPECT_LE(g.kept.back().first, s.n - observation);
        }
        for (int layer = g.group.first_layer; layer <= g.group.last_layer; ++layer) {
          EXPECT_EQ(sequence.kept[static_cast<size_t>(layer)], count);
          EXPECT_EQ(sequence.cache->layer(layer).length, count);
          total += count;
        }
      }
      if (!s.config.reference) {
        EXPECT_LE(total, s.budget * n_layer);
      }
      // Decoding goes on even from caches that kept nothing.
      const auto logits = engine.decode(sequence, 1);
      for (auto x : logits) ASSERT_TRUE(std::isfinite(x));
      EXPECT_EQ(sequence.position, s.n + 1);
    }
  }
}

TEST(SelectionEndToEnd, OfSixThousandTokensIsThatOfPlainLoops) {
  RandomModel m;
  m.n_layer = 4;
  m.n_ctx = 8192;
  const auto model = load(random_model_path("long_selection", m));
  Engine engine(*model, {.chunk = 512});
  const int64_t n = 6000, review = n - 16;
  const auto prompt = random_tokens(n, m.n_vocab);
  SelectionConfig c;  // ω 8, α 16, p 8: the mean of each window
  c.gamma = 2;
  const auto recorded = record(engine, *model, prompt, c.alpha);
  Sequence sequence;
  engine.prefill(sequence, prompt, *windowkv_policy(Budget::percent(12), c));
  // 720 tokens a layer, 16 of them observed; 704 on average, the last group's 704·γ/λ.
  const std::vector<int64_t> budgets = {2 * 704 - 100, 100};
  ASSERT_EQ(sequence.groups.size(), 2u);
  for (size_t g = 0; g < 2; ++g) {
    const auto& group = sequence.groups[g];
    EXPECT_EQ(group.budget, budgets[g]);
    std::vector<double> scores(static_cast<size_t>(review / 8), 0.0);
    for (int head = 0; head < m.n_head; ++head) {
      const auto received = recorded.received(group.group.first_layer, head, Rows::kSum);
      for (size_t i = 0; i < static_cast<size_t>(review); ++i) scores[i / 8] += received[i];
    }
    expect_highest(group.windows, scores, 0, budgets[g] / 8);
    std::vector<int32_t> tokens;
    for (const int32_t window : group.windows)
      for (int32_t i = 0; i < 8; ++i) tokens.push_back(window * 8 + i);
    for (auto i = static_cast<int32_t>(review); i < n; ++i) tokens.push_back(i);
    for (int layer = group.group.first_layer; layer <= group.group.last_layer; ++layer)
      EXPECT_EQ(kept_by_layer(sequence)[static_cast<size_t>(layer)], KeptTokens{tokens});
  }
}

}  // namespace
}  // namespace windowkv::test
