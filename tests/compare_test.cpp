// Comparing policies: contenders by name, intervals, fidelity, and one prefill for all.
#include "eval/compare.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "eval/niah.h"
#include "support/files.h"
#include "support/models.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

using namespace eval;

TEST(Contenders, CarryNumbersOfTheirOwn) {
  const auto c = make_contender("windowkv:group=1:pyramid=flat:window=4", "6%", 6);
  EXPECT_EQ(c.kv, "windowkv");
  EXPECT_EQ(c.name, "windowkv:group=1:pyramid=flat:window=4 6%");
  const auto policy = c.make(Task::kAggregation);
  EXPECT_EQ(policy->config()->gamma, 1);
  EXPECT_EQ(policy->config()->pyramid, Pyramid::kFlat);
  EXPECT_EQ(policy->config()->omega, 4);
  EXPECT_EQ(policy->config()->p, 2);
  const auto task_of = [](const char* spec) {
    return task_for(make_contender(spec, "6%", 6), TaskChoice::parse("given"), Task::kAggregation,
                    "Question: who wrote the letter?\nAnswer:")
        .task;
  };
  EXPECT_EQ(task_of("windowkv"), Task::kAggregation);
  EXPECT_EQ(task_of("windowkv:task=given"), Task::kAggregation);
  EXPECT_EQ(task_of("windowkv:task=localization"), Task::kLocalization);
  EXPECT_EQ(task_of("windowkv:task=auto"), Task::kLocalization);
}

TEST(Contenders, AreEveryPolicyWithEveryBudgetOnce) {
  const std::vector<std::string> policies = {"windowkv", "full", "snapkv", "windowkv"},
                                 budgets = {"6%", "50"};
  std::vector<std::string> names, with;
  for (const auto& c : make_contenders(policies, budgets, 6)) {
    names.push_back(c.name);
    with.push_back(c.budget);
  }
  EXPECT_EQ(names,
            (std::vector<std::string>{"windowkv 6%", "windowkv 50", "full", "snapkv 6%", "snapkv 50"}));
  EXPECT_EQ(with, (std::vector<std::string>{"6%", "50", "100%", "6%", "50"}));
}

TEST(Contenders, RefuseWhatIsUnknown) {
  for (const char* spec :
       {"none", "windowkv:", "windowkv:size=3", "windowkv:group=x", "windowkv:group", "snapkv:group=1",
        "windowkv:task=guess", "windowkv:pyramid=round", "windowkv:group=0", ""})
    EXPECT_THROW(make_contender(spec, "12%", 6), Error) << spec;
  EXPECT_THROW(make_contender("windowkv", "0%", 6), Error);
}

TEST(Bootstrap, HoldsTheMeanAndRepeats) {
  std::vector<double> values;
  for (int i = 0; i < 200; ++i) values.push_back(i % 2 == 0 ? 0 : 100);
  const auto e = bootstrap_mean(values, 3);
  EXPECT_DOUBLE_EQ(e.mean, 50);
  // Standard error of 200 such values: 50/√200 = 3.54; 1.96 of them to each side.
  EXPECT_NEAR(e.low, 50 - 6.9, 1.0);
  EXPECT_NEAR(e.high, 50 + 6.9, 1.0);
  const auto again = bootstrap_mean(values, 3);
  EXPECT_EQ(e.low, again.low);
  EXPECT_EQ(e.high, again.high);
}

TEST(Bootstrap, OfPairedDifferencesLeavesOutWhatBothShare) {
  const std::vector<double> a = {10, 50, 90, 30};
  const std::vector<double> b = {9, 49, 89, 29};
  const auto e = bootstrap_difference(a, b);
  EXPECT_DOUBLE_EQ(e.mean, 1);
  EXPECT_DOUBLE_EQ(e.low, 1);
  EXPECT_DOUBLE_EQ(e.high, 1);
  EXPECT_EQ(bootstrap_mean({}).mean, 0);
}

Sample needle(const std::string& id, int filler) {
  Sample s;
  s.dataset = "needles";
  s.id = id;
  for (int i = 0; i < filler; ++i) s.prompt += "The river was calm and the night was cold. ";
  s.prompt += "The secret ingredient of the red soup is mint. ";
  for (int i = 0; i < filler; ++i) s.prompt += "The road to the town was long. ";
  s.prompt += "\n\nQuestion: What is the secret ingredient of the red soup?\nAnswer:";
  s.answers = {"mint"};
  s.metric = Metric::kQaF1;
  s.max_new_tokens = 6;
  s.own_prompt = true;
  s.stop = {"\n"};
  return s;
}

class Compare : public testing::Test {
 protected:
  std::unique_ptr<Model> model_ = load(minilong_path("q8_0"));
  Engine engine_{*model_};
  std::vector<Sample> samples_ = {needle("a", 10), needle("b", 15)};
  std::vector<Contender> contenders_ = {
      make_contender("full", "100%", 6), make_contender("windowkv", "100%", 6),
      make_contender("streaming-llm", "12%", 6), make_contender("random", "12%", 6)};
};

TEST_F(Compare, FullIsItsOwnReferenceAndABudgetOf100PerCentEqualsIt) {
  const auto measured = run_compare(engine_, *model_, samples_, contenders_, {});
  for (const auto& row : measured) {
    ASSERT_EQ(row.size(), contenders_.size());
    EXPECT_EQ(row[0].kept_share, 1.0);
    for (int c : {0, 1}) {
      EXPECT_GT(row[static_cast<size_t>(c)].fidelity.steps, 0);
      EXPECT_LT(row[static_cast<size_t>(c)].fidelity.mean_kl, 1e-9);
      EXPECT_EQ(row[static_cast<size_t>(c)].fidelity.top1_agreement, 1.0);
    }
    EXPECT_EQ(row[0].text, row[1].text);
    EXPECT_LE(row[2].kept_share, 0.12);
    EXPECT_GT(row[2].fidelity.mean_kl, 0.0);
  }
  const auto results = summarize_compare(samples_, contenders_, measured);
  EXPECT_EQ(results[1].over_full.mean, 0.0);
  EXPECT_EQ(results[2].best_rival, "random 12%");
  EXPECT_FALSE(results[0].over_best_rival.has_value());
}

TEST_F(Compare, TakesUpAResultsFileWhereItStopped) {
  const auto path =
      (std::filesystem::temp_directory_path() / ("windowkv-compare-" + std::to_string(getpid()))).string();
  std::filesystem::remove(path);
  std::vector<std::vector<SampleResult>> first;
  {
    JsonlLog log(path);
    first = run_compare(engine_, *model_, std::span(samples_).first(1), contenders_, {.log = &log});
    EXPECT_EQ(log.rows().size(), 1u);
  }
  JsonlLog log(path);
  int ran = 0;
  CompareOptions options;
  options.log = &log;
  options.progress = [&](int64_t, int64_t) { ++ran; };
  const auto both = run_compare(engine_, *model_, samples_, contenders_, options);
  EXPECT_EQ(ran, 1);
  EXPECT_EQ(log.rows().size(), 2u);
  for (size_t c = 0; c < contenders_.size(); ++c) {
    EXPECT_EQ(both[0][c].score, first[0][c].score);
    EXPECT_EQ(both[0][c].text, first[0][c].text);
    EXPECT_EQ(both[0][c].fidelity.mean_kl, first[0][c].fidelity.mean_kl);
  }
  std::filesystem::remove(path);
}

TEST_F(Compare, AFailingSampleDoesNotEndTheRun) {
  samples_[0].prompt.clear();
  int failed = 0;
  CompareOptions options;
  options.failed = [&](const Sample&, const std::string&) { ++failed; };
  const auto measured = run_compare(engine_, *model_, samples_, contenders_, options);
  EXPECT_EQ(failed, measured[0].empty() ? 1 : 0);
  EXPECT_FALSE(measured[1].empty());
}

TEST_F(Compare, GivesNeedlesTheScoresThatNiahGivesThem) {
  const NiahPrompts prompts(model_->vocab(), data_text("sherlock.txt"), needle_set("minilong"), true);
  const NiahGrid grid{.lengths = {300}, .depths = {0, 100}, .seeds = {0, 1}};
  const auto points = grid.points();
  std::vector<Sample> samples;
  for (const auto& point : points) {
    samples.push_back(niah_sample(prompts.make(point), point, true, 24));
    EXPECT_EQ(sample_tokens(*model_, samples.back()), prompts.make(point).tokens);
  }
  const auto compared = run_compare(engine_, *model_, samples, contenders_, {});
  const auto cells = run_niah(engine_, *model_, prompts, points, contenders_, {.max_tokens = 24});
  for (size_t c = 0; c < contenders_.size(); ++c)
    for (size_t p = 0; p < points.size(); ++p) {
      ASSERT_FALSE(compared[p].empty());
      const auto cell = niah_cell(samples[p], compared[p][c].text);
      EXPECT_EQ(cell.answer, cells[c][p]->answer);
      EXPECT_EQ(compared[p][c].score, cells[c][p]->rouge1);
      EXPECT_EQ(cell.exact, cells[c][p]->exact);
      EXPECT_EQ(compared[p][c].kept_bytes, cells[c][p]->kept_bytes);
    }
}

TEST_F(Compare, HasWhatIsFinishedWhereItIsCancelled) {
  bool stop = false;
  CompareOptions options;
  options.progress = [&](int64_t, int64_t) { stop = true; };
  options.cancelled = [&] { return stop; };
  const auto measured = run_compare(engine_, *model_, samples_, contenders_, options);
  ASSERT_EQ(measured.size(), samples_.size());
  EXPECT_EQ(measured[0].size(), contenders_.size());
  EXPECT_TRUE(measured[1].empty());
}

TEST_F(Compare, NeedlesThatNotAllPoliciesFinishedAreLeftOutWhereItIsCancelled) {
  const NiahPrompts prompts(model_->vocab(), data_text("sherlock.txt"), needle_set("minilong"), true);
  const auto points = NiahGrid{.lengths = {300}, .depths = {0, 50, 100}, .seeds = {0}}.points();
  const auto path = temp_path("cancelled.jsonl");
  JsonlLog log(path);
  NiahOptions options{.max_tokens = 4, .log = &log};
  const size_t enough = contenders_.size() + 1;  // the first prompt's, and one of the second's
  options.cancelled = [&] { return log.rows().size() >= enough; };
  const auto cells = run_niah(engine_, *model_, prompts, points, contenders_, options);
  EXPECT_EQ(log.rows().size(), enough);
  for (const auto& of_contender : cells) {
    EXPECT_TRUE(of_contender[0].has_value());
    EXPECT_FALSE(of_contender[1].has_value() || of_contender[2].has_value());
  }
  options.cancelled = nullptr;
  for (const auto& of_contender : run_niah(engine_, *model_, prompts, points, contenders_, options))
    EXPECT_TRUE(of_contender[0].has_value() && of_contender[1].has_value() && of_contender[2].has_value());
  EXPECT_EQ(log.rows().size(), 3 * contenders_.size());
}

TEST(Rewind, GivesTheSameContinuationAgain) {
  const auto model = load(minilong_path("q8_0"));
  Engine engine(*model);
  const auto prompt = random_tokens(300, 4096);
  const auto policy = make_policy("snapkv", {Budget::percent(25), {}});
  Sequence sequence;
  engine.prefill(sequence, prompt, *policy);
  auto continuation = [&] {
    std::vector<float> out;
    for (Token token : {11, 12, 13}) {
      const auto logits = engine.decode(sequence, token);
      out.assign(logits.begin(), logits.end());
    }
    return out;
  };
  const auto first = continuation();
  for (Token token : {500, 600, 700, 800}) engine.decode(sequence, token);
  sequence.rewind();
  EXPECT_EQ(continuation(), first);
}

}  // namespace
}  // namespace windowkv::test
