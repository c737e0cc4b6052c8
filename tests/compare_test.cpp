// Comparing policies: contenders by name, intervals, fidelity, and one prefill for all.
#include "eval/compare.h"

#include <gtest/gtest.h>

#include <algorithm>
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

/// log softmax in double precision.
std::vector<double> log_softmax(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float x : logits) sum += std::exp(x - top);
  std::vector<double> out(logits.begin(), logits.end());
  for (auto& x : out) x -= top + std::log(sum);
  return out;
}

TEST(Fidelity, IsTheMeanKlOfWhatBothCachesSay) {
  const auto model = load(minilong_path("q8_0"));
  Engine engine(*model);
  const auto prompt = model->vocab().tokenize(data_text("sherlock.txt").substr(0, 2500));
  const auto full = full_policy(), tova = make_policy("tova", {Budget::percent(12), {}});
  std::vector<Sequence> sequences(2);
  const Policy* const pair[] = {full.get(), tova.get()};
  const auto span = engine.prefill(sequences, prompt, pair);
  const std::vector<float> logits(span.begin(), span.end());
  const auto reference = reference_answer(engine, nullptr, sequences[0], logits, 70);
  ASSERT_EQ(reference.tokens.size(), 70u);
  ASSERT_EQ(reference.steps.size(), 69u);
  const auto fidelity = measure_fidelity(engine, sequences[1], reference);

  std::vector<std::vector<double>> said[2];
  for (size_t s = 0; s < 2; ++s)
    engine.follow(sequences[s], std::span(reference.tokens).first(69),
                  [&](int64_t, std::span<const float> next) { said[s].push_back(log_softmax(next)); });
  double mean_kl = 0, agreed = 0, worst = 0;
  for (size_t i = 0; i < 69; ++i) {
    const auto &p = said[0][i], &q = said[1][i];
    for (size_t v = 0; v < p.size(); ++v) {
      worst = std::max(worst, std::abs(reference.steps[i].p[v] - std::exp(p[v])) / std::exp(p[v]));
      mean_kl += std::exp(p[v]) * (p[v] - q[v]) / 69;
    }
    agreed +=
        std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin();
  }
  EXPECT_EQ(fidelity.steps, 69);
  EXPECT_GT(mean_kl, 0.01);
  EXPECT_LT(worst, 5e-6);  // logits that differ by 20 do so to 1e-6
  EXPECT_NEAR(fidelity.mean_kl, mean_kl, 1e-5 * mean_kl);
  EXPECT_DOUBLE_EQ(fidelity.top1_agreement, agreed / 69);
  EXPECT_LT(agreed, 69);
  EXPECT_FALSE(fidelity.same_answer());
  sequences[0].rewind();
  const auto itself = measure_fidelity(engine, sequences[0], reference);
  EXPECT_EQ(itself.mean_kl, 0);
  EXPECT_TRUE(itself.same_answer());
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

TEST_F(Compare, FullSaysWhatItSaysAloneAndABudgetOf100PerCentEqualsIt) {
  const auto measured = run_compare(engine_, *model_, samples_, contenders_, {});
  ASSERT_EQ(measured.size(), samples_.size());
  for (size_t i = 0; i < measured.size(); ++i) {
    const auto& row = measured[i];
    ASSERT_EQ(row.size(), contenders_.size());
    EXPECT_EQ(row[0].kept_share, 1.0);
    Sequence sequence;
    const auto prompt = sample_tokens(*model_, samples_[i]);
    const auto logits = engine_.prefill(sequence, prompt, *full_policy());
    const auto alone = generate(engine_, &model_->vocab(), sequence, logits, prompt,
                                sample_generation(model_->vocab(), samples_[i]));
    EXPECT_EQ(row[0].text, alone.text);
    EXPECT_GT(row[1].fidelity.steps, 0);
    EXPECT_EQ(row[1].fidelity.steps, static_cast<int64_t>(alone.tokens.size()) - 1);
    EXPECT_LT(row[1].fidelity.mean_kl, 1e-9);
    EXPECT_EQ(row[1].fidelity.top1_agreement, 1.0);
    EXPECT_EQ(row[1].text, row[0].text);
    EXPECT_LE(row[2].kept_share, 0.12);
    EXPECT_GT(row[2].fidelity.mean_kl, 0.0);
  }
  const auto results = summarize_compare(samples_, contenders_, measured);
  EXPECT_EQ(results[1].scores->over_full.mean, 0.0);
  EXPECT_EQ(results[2].scores->best_rival, "random 12%");
  EXPECT_FALSE(results[0].scores->over_best_rival.has_value());
  EXPECT_EQ(results[1].same_answer.mean, 1.0);
  EXPECT_EQ(results[2].kl_by_dataset.at("needles").mean, results[2].kl.mean);
}

void expect_same(const SampleResult& got, const SampleResult& expected) {
  EXPECT_EQ(got.score, expected.score);
  EXPECT_EQ(got.text, expected.text);
  EXPECT_EQ(got.kept_bytes, expected.kept_bytes);
  EXPECT_EQ(got.fidelity.steps, expected.fidelity.steps);
  EXPECT_EQ(got.fidelity.mean_kl, expected.fidelity.mean_kl);
  EXPECT_EQ(got.fidelity.top1_agreement, expected.fidelity.top1_agreement);
}

TEST_F(Compare, TakesUpAResultsFileBySampleAndContender) {
  const auto path = temp_path("compare-log");
  const auto whole = run_compare(engine_, *model_, samples_, contenders_, {});
  {
    JsonlLog log(path);
    run_compare(engine_, *model_, std::span(samples_).first(1), std::span(contenders_).first(3),
                {.log = &log});
    EXPECT_EQ(log.rows().size(), 3u);
  }
  JsonlLog log(path);
  int ran = 0;
  CompareOptions options;
  options.log = &log;
  options.progress = [&](int64_t done, int64_t total) {
    EXPECT_EQ(done, ++ran);
    EXPECT_EQ(total, 5);
  };
  for (int round = 0; round < 2; ++round) {
    const auto all = run_compare(engine_, *model_, samples_, contenders_, options);
    EXPECT_EQ(ran, 5);
    EXPECT_EQ(log.rows().size(), 8u);
    for (size_t i = 0; i < samples_.size(); ++i)
      for (size_t c = 0; c < contenders_.size(); ++c) expect_same(all[i][c], whole[i][c]);
  }
  samples_[1].prompt.insert(0, "So. ");  // another prompt under the same name
  options.progress = nullptr;
  run_compare(engine_, *model_, samples_, contenders_, options);
  EXPECT_EQ(log.rows().size(), 12u);
}

TEST_F(Compare, FollowMeasuresTheSameFidelityWithoutAnswers) {
  const auto whole = run_compare(engine_, *model_, samples_, contenders_, {});
  JsonlLog log(temp_path("follow-log"));
  CompareOptions options;
  options.follow = true;
  options.log = &log;
  auto expect_fidelity = [&](const std::vector<std::vector<SampleResult>>& followed) {
    for (size_t i = 0; i < samples_.size(); ++i)
      for (size_t c = 0; c < contenders_.size(); ++c) {
        auto expected = whole[i][c];
        if (c > 0) expected.score.reset();
        if (c > 0) expected.text = followed[i][c].text;
        expect_same(followed[i][c], expected);
      }
  };
  const auto followed = run_compare(engine_, *model_, samples_, contenders_, options);
  expect_fidelity(followed);
  const auto results = summarize_compare(samples_, contenders_, followed);
  EXPECT_TRUE(results[0].scores.has_value());
  EXPECT_FALSE(results[2].scores.has_value());
  EXPECT_GT(results[2].kl.mean, 0);
  EXPECT_LT(results[2].same_answer.mean, 1);
  // Its rows do for another such run, and the full cache's alone for one with scores, whose rows do for both.
  run_compare(engine_, *model_, samples_, contenders_, options);
  EXPECT_EQ(log.rows().size(), 8u);
  options.follow = false;
  run_compare(engine_, *model_, samples_, contenders_, options);
  EXPECT_EQ(log.rows().size(), 14u);
  options.follow = true;
  expect_fidelity(run_compare(engine_, *model_, samples_, contenders_, options));
  EXPECT_EQ(log.rows().size(), 14u);
}

TEST_F(Compare, KeepsTheFullCachesAnswers) {
  const auto path = temp_path("references");
  const auto expected = run_compare(engine_, *model_, samples_, contenders_, {});
  auto run = [&](const std::string& model_hash = "m", KvTypes types = {}) {
    ReferenceFile file(path, model_hash, types);
    CompareOptions options;
    options.reference = &file;
    return run_compare(engine_, *model_, samples_, contenders_, options);
  };
  auto rows = [&] { return JsonlLog(path).rows(); };
  auto expect_all = [&](const std::vector<std::vector<SampleResult>>& got) {
    for (size_t i = 0; i < samples_.size(); ++i)
      for (size_t c = 0; c < contenders_.size(); ++c) expect_same(got[i][c], expected[i][c]);
  };
  expect_all(run());
  ASSERT_EQ(rows().size(), 2u);
  const auto first = rows()[0];
  EXPECT_EQ(first["prompt"].get<std::vector<Token>>(), sample_tokens(*model_, samples_[0]));
  EXPECT_EQ(first["text"], expected[0][0].text);
  EXPECT_EQ(first["answer"].size(), static_cast<size_t>(expected[0][0].fidelity.steps) + 1);
  expect_all(run());
  EXPECT_EQ(rows().size(), 2u);
  run("another model");
  run("m", {KvType::kQ8_0, KvType::kQ8_0});
  EXPECT_EQ(rows().size(), 6u);
  samples_[0].max_new_tokens = 3;
  EXPECT_LE(run()[0][0].fidelity.steps, 2);
  samples_[0].prompt.insert(0, "So. ");
  run();
  EXPECT_EQ(rows().size(), 8u);

  // An answer that is not the model's shows that it is taken from the file: nothing is generated.
  auto other = rows()[1];
  other["answer"] = {11, 12, 13, 14};
  other["text"] = "other words";
  std::filesystem::remove(path);
  JsonlLog(path).append(other);
  const auto got = run();
  EXPECT_EQ(got[1][0].text, "other words");
  EXPECT_EQ(got[1][2].fidelity.steps, 3);
  other["answer"] = "none";
  std::filesystem::remove(path);
  JsonlLog(path).append(other);
  EXPECT_TRUE(run()[1].empty());
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
  options.progress = [&](int64_t done, int64_t) { stop = done == static_cast<int64_t>(contenders_.size()); };
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
