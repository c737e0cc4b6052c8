// Calibration files: which one a model takes, which are refused, and how they are measured.
#include "windowkv/calibration.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>

#include "eval/calibrate.h"
#include "eval/contender.h"
#include "support/files.h"
#include "support/gguf_edit.h"
#include "support/models.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

namespace fs = std::filesystem;

/// A folder of its own for each test, with a model of three layers named "random 5".
class CalibrationFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = temp_path(testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directory(folder_);
    RandomModel m;
    m.n_layer = 3;
    m.seed = 5;
    model_ = path("model-f16.gguf");
    fs::copy_file(random_model_path("three_layers", m), model_);
  }
  std::string path(const std::string& name) const { return (fs::path(folder_) / name).string(); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name), std::ios::binary) << text;
    return path(name);
  }
  std::unique_ptr<Model> load(const std::string& calibration = "auto") const {
    ModelOptions options;
    options.weights = false;
    options.calibration = calibration;
    return Model::load(model_, options);
  }
  /// The one line a model that cannot be loaded gives.
  std::string refusal(const std::string& calibration = "auto") const {
    try {
      load(calibration);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }
  void expect_refused(const std::string& text, const std::string& why) const {
    const auto file = write("bad.json", text);
    const auto line = refusal(file);
    EXPECT_NE(line.find(file), std::string::npos) << line;
    EXPECT_NE(line.find(why), std::string::npos) << line << " for " << text;
    EXPECT_EQ(line.find('\n'), std::string::npos) << line;
  }

  std::string folder_, model_;
};

std::string calibration_text(const std::string& model, const std::vector<double>& shares) {
  return fmt::format(R"({{"model": "{}", "layer_shares": [{}]}})", model, fmt::join(shares, ", "));
}

TEST_F(CalibrationFile, NoneIsNeeded) {
  const auto model = load();
  EXPECT_EQ(model->calibration_path(), "");
  EXPECT_TRUE(model->hparams().layer_shares.empty());
}

TEST_F(CalibrationFile, TheOneBesideTheModelIsFoundByNameAndDepth) {
  write("a.calibration.json", calibration_text("another model", {1, 2, 3}));
  write("b.calibration.json", calibration_text("random 5", {1, 2, 3, 4}));
  write("c.json", calibration_text("random 5", {3, 2, 1}));
  EXPECT_EQ(load()->calibration_path(), "");
  // Any file name: the GGUFs of a model in all their types share one.
  const auto file = write("made here.calibration.json", calibration_text("random 5", {1, 2, 3}));
  const auto model = load();
  EXPECT_EQ(model->calibration_path(), file);
  EXPECT_EQ(model->hparams().layer_shares, (std::vector<double>{0.5, 1, 1.5}));  // the mean is 1
  // Of two the first by name, whatever order the folder lists them in.
  const auto first = write("d.calibration.json", calibration_text("random 5", {1, 1, 1}));
  EXPECT_EQ(load()->calibration_path(), first);
  fs::create_directory(path("folder.calibration.json"));
  EXPECT_EQ(load()->calibration_path(), first);
}

TEST_F(CalibrationFile, NoneTurnsItOff) {
  write("m.calibration.json", calibration_text("random 5", {1, 2, 3}));
  const auto model = load("none");
  EXPECT_EQ(model->calibration_path(), "");
  EXPECT_TRUE(model->hparams().layer_shares.empty());
}

TEST_F(CalibrationFile, AModelInTheWorkingFolderIsFoundOne) {
  write("m.calibration.json", calibration_text("random 5", {1, 2, 3}));
  const auto before = fs::current_path();
  fs::current_path(folder_);
  ModelOptions options;
  options.weights = false;
  const auto found = Model::load("model-f16.gguf", options)->calibration_path();
  fs::current_path(before);
  EXPECT_EQ(fs::path(found).filename(), "m.calibration.json");
}

TEST_F(CalibrationFile, ByPathAnotherModelsIsRefused) {
  expect_refused(calibration_text("another model", {1, 2, 3}), "this model is \"random 5\" of 3");
  expect_refused(calibration_text("random 5", {1, 2}), "of 2 layers");
  EXPECT_EQ(load(write("right.json", calibration_text("random 5", {1, 2, 3})))->hparams().layer_shares[2],
            1.5);
}

TEST_F(CalibrationFile, WhatIsNoCalibrationIsRefused) {
  for (const char* text :
       {"", "{", "[]", "{}", "3", "null", R"({"model": "random 5"})", R"({"layer_shares": [1, 2, 3]})",
        R"({"model": 5, "layer_shares": [1, 2, 3]})", R"({"model": "random 5", "layer_shares": 3})",
        R"({"model": "random 5", "layer_shares": [1, "2", 3]})",
        R"({"model": "random 5", "layer_shares": [1, null, 3]})",
        R"({"model": "random 5", "layer_shares": [1, NaN, 3]})",
        R"({"model": "random 5", "layer_shares": [1, 1e999, 3]})",
        "{\"model\": \"random 5\", \"layer_shares\": [1,\n 2,\n }", "\xff\xfe\n\x01"})
    expect_refused(text, "not a calibration");
  for (const char* shares : {"[0, 1, 2]", "[-1, 1, 3]", "[1, 1, -0.0]", "[1, 1, 1e300]"})
    expect_refused(fmt::format(R"({{"model": "random 5", "layer_shares": {}}})", shares), "above 0");
  const auto missing = refusal(path("missing.json"));
  EXPECT_NE(missing.find("missing.json"), std::string::npos) << missing;
  EXPECT_NE(refusal(folder_), "");
}

TEST_F(CalibrationFile, ABrokenOneBesideTheModelIsNamed) {
  const auto file = write("m.calibration.json", "{");
  EXPECT_NE(refusal().find(file), std::string::npos) << refusal();
  EXPECT_NO_THROW(load("none"));
}

TEST_F(CalibrationFile, ModelsWithoutANameTakeOneByPathOnly) {
  // Any two models without a name and of one depth would share it.
  model_ = edit_gguf(model_, "unnamed.gguf", [](GgufEdit& e) { gguf_remove_key(e.meta, "general.name"); });
  const auto beside = (fs::path(model_).parent_path() / "u.calibration.json").string();
  std::ofstream(beside) << calibration_text("", {1, 2, 3});
  EXPECT_EQ(load()->calibration_path(), "");
  EXPECT_EQ(load(beside)->calibration_path(), beside);
  fs::remove(beside);
}

/// The lower convex hull of the smallest KL at this factor or below, by its chords.
double hull(const std::vector<double>& factors, std::vector<double> kl, double at) {
  for (size_t i = 1; i < kl.size(); ++i) kl[i] = std::min(kl[i], kl[i - 1]);
  double low = std::numeric_limits<double>::infinity();
  for (size_t a = 0; a < kl.size(); ++a)
    for (size_t b = a; b < kl.size(); ++b)
      if (factors[a] <= at + 1e-9 && factors[b] >= at - 1e-9)
        low = std::min(
            low, a == b ? kl[a] : kl[a] + (at - factors[a]) / (factors[b] - factors[a]) * (kl[b] - kl[a]));
  return low;
}

class Calibrate : public testing::Test {
 protected:
  static constexpr int kLayers = 4;
  void SetUp() override {
    RandomModel m;
    m.n_layer = kLayers;
    m.seed = 8;
    model_ = load(random_model_path("calibrated", m));
    for (int i = 0; i < 2; ++i)
      prompts_.push_back(random_tokens(120 + 40 * i, 256, static_cast<uint64_t>(i + 1)));
    options_.max_tokens = 6;
  }
  eval::CalibrationResult run() {
    Engine engine(*model_);
    return eval::calibrate(engine, *model_, prompts_, options_);
  }

  static double total(const eval::CalibrationResult& r) {
    return std::accumulate(r.layer_shares.begin(), r.layer_shares.end(), 0.0);
  }

  std::unique_ptr<Model> model_;
  std::vector<std::vector<Token>> prompts_;
  eval::CalibrateOptions options_;
};

TEST_F(Calibrate, SharesHaveTheMeanOneAndAreTheSameEveryTime) {
  std::vector<int64_t> steps;
  options_.progress = [&](int64_t done, int64_t total) {
    steps.push_back(done);
    EXPECT_EQ(total, 2 * kLayers);
  };
  const auto r = run();
  ASSERT_EQ(r.layer_shares.size(), static_cast<size_t>(kLayers));
  EXPECT_NEAR(total(r), kLayers, 1e-9);
  for (double share : r.layer_shares) {
    EXPECT_GE(share, r.factors.front());
    EXPECT_LE(share, r.factors.back());
  }
  EXPECT_EQ(r.prompts, 2);
  ASSERT_EQ(r.kl.size(), static_cast<size_t>(kLayers));
  for (const auto& layer : r.kl) {
    ASSERT_EQ(layer.size(), r.factors.size());
    for (double kl : layer) EXPECT_TRUE(std::isfinite(kl) && kl >= 0) << kl;
  }
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
  const auto again = run();
  EXPECT_EQ(again.layer_shares, r.layer_shares);
  EXPECT_EQ(again.kl, r.kl);
}

TEST_F(Calibrate, NoOtherSharesMakeTheSumOfTheLayersKlSmaller) {
  const auto r = run();
  auto sum = [&](const std::vector<double>& shares) {
    double total = 0;
    for (size_t l = 0; l < shares.size(); ++l) total += hull(r.factors, r.kl[l], shares[l]);
    return total;
  };
  const double ours = sum(r.layer_shares);
  EXPECT_LE(ours, sum(std::vector<double>(kLayers, 1.0)) + 1e-9);
  std::mt19937_64 random(1);
  auto unit = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
  for (int round = 0; round < 2000; ++round) {
    // From what was found, tokens moved from one layer to another.
    auto other = r.layer_shares;
    for (int move = 0; move < 1 + round % 4; ++move) {
      auto& from = other[random() % kLayers];
      auto& to = other[random() % kLayers];
      const double step = unit() * std::min(from - r.factors.front(), r.factors.back() - to);
      from -= step;
      to += step;
    }
    EXPECT_LE(ours, sum(other) + 1e-9);
  }
}

TEST_F(Calibrate, ADifferenceIsMeasuredInEveryLayer) {
  // A layer's budget matters to the distributions: its KL is not the same at a quarter and at four times it.
  for (const auto& layer : run().kl) EXPECT_NE(layer.front(), layer.back());
}

TEST_F(Calibrate, SmallAndWholeBudgetsAndShortPromptsWork) {
  for (double percent : {0.1, 1.0, 100.0}) {
    options_.percent = percent;
    const auto r = run();
    EXPECT_NEAR(total(r), kLayers, 1e-9) << percent;
    if (percent == 100.0) {
      for (const auto& layer : r.kl) EXPECT_NEAR(layer[2], 0, 1e-9);  // nothing is dropped
    }
  }
  options_.percent = 12;
  prompts_ = {random_tokens(1, 256), random_tokens(3, 256)};
  EXPECT_NEAR(total(run()), kLayers, 1e-9);
}

TEST_F(Calibrate, WithoutAUsablePromptThereIsNothingToMeasure) {
  prompts_.clear();
  EXPECT_THROW(run(), Error);
  prompts_ = {random_tokens(50, 256)};
  options_.max_tokens = 1;  // the first token says nothing of the cache
  EXPECT_THROW(run(), Error);
}

TEST_F(Calibrate, CanBeCancelled) {
  for (int stop : {0, 3, 40}) {
    int asked = 0;
    options_.cancelled = [&] { return asked++ >= stop; };
    EXPECT_THROW(run(), Cancelled) << stop;
  }
}

TEST(Contender, TakesEverySettingByItsName) {
  const auto contender = eval::make_contender(
      "windowkv:windows=free:heads=max:decide=last:rows=sum:recent=3:sinks=2:window=5:observe=7:group=2:"
      "lambda=9:"
      "pyramid=flat",
      "12%", 6);
  const auto policy = contender.make(Task::kAggregation);
  const auto& c = *policy->config();
  EXPECT_EQ(c.windows, Windows::kFree);
  EXPECT_EQ(c.heads, Heads::kMax);
  EXPECT_EQ(c.decider, Decider::kLast);
  EXPECT_EQ(c.rows, Rows::kSum);
  EXPECT_EQ(c.recent, 3);
  EXPECT_EQ(c.sinks, 2);
  EXPECT_EQ(c.omega, 5);
  EXPECT_EQ(c.alpha, 7);
  EXPECT_EQ(c.gamma, 2);
  EXPECT_EQ(c.lambda, 9);
  EXPECT_EQ(c.pyramid, Pyramid::kFlat);
  EXPECT_EQ(c.task, Task::kAggregation);
  EXPECT_EQ(
      eval::make_contender("windowkv:preset=paper", "12%", 6).make(Task::kLocalization)->config()->windows,
      Windows::kGrid);
}

TEST(Contender, BadSettingsSayWhichOneIsWrong) {
  auto line = [](const std::string& spec) -> std::string {
    try {
      eval::make_contender(spec, "12%", 6);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  for (auto [setting, what] : {std::pair{"windows=some", "\"some\""},
                               {"heads=all", "\"all\""},
                               {"decide=", "\"\""},
                               {"rows=mean", "\"mean\""},
                               {"recent=x", "recent"},
                               {"recent=-1", "recent"},
                               {"sinks=1.5", "sinks"},
                               {"sinks=99999999999", "sinks"},
                               {"window=", "window"},
                               {"group=2x", "group"},
                               {"windows=grid:heads=kv", "KV head"},
                               {"size=3", "unknown key \"size\""}}) {
    const auto text = line(fmt::format("windowkv:{}", setting));
    EXPECT_NE(text.find(what), std::string::npos) << setting << ": " << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace windowkv::test
