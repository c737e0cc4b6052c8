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

#include "eval/calibrate.h"
#include "eval/contender.h"
#include "eval/fidelity.h"
#include "eval/layer_shares.h"
#include "support/files.h"
#include "support/gguf_edit.h"
#include "support/models.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

namespace fs = std::filesystem;
using eval::kCalibrationFactors;

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
    fingerprint_ = load("none")->hparams().fingerprint;
  }
  std::string path(const std::string& name) const { return (fs::path(folder_) / name).string(); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name), std::ios::binary) << text;
    return path(name);
  }
  std::unique_ptr<Model> load(const std::string& calibration = "auto") {
    ModelOptions options;
    options.weights = false;
    options.calibration = calibration;
    warnings_.clear();
    options.warning = [&](const std::string& line) { warnings_.push_back(line); };
    return Model::load(model_, options);
  }
  std::string text(const std::string& fingerprint, const std::vector<double>& shares) const {
    return fmt::format(R"({{"model": "random 5", "fingerprint": "{}", "layer_shares": [{}]}})", fingerprint,
                       fmt::join(shares, ", "));
  }
  /// One of the model.
  std::string text(const std::vector<double>& shares) const { return text(fingerprint_, shares); }
  /// The one line a model that cannot be loaded gives.
  std::string refusal(const std::string& calibration = "auto") {
    try {
      load(calibration);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }
  void expect_refused(const std::string& content, const std::string& why) {
    const auto file = write("bad.json", content);
    const auto line = refusal(file);
    EXPECT_NE(line.find(file), std::string::npos) << line;
    EXPECT_NE(line.find(why), std::string::npos) << line << " for " << content;
    EXPECT_EQ(line.find('\n'), std::string::npos) << line;
  }

  std::string folder_, model_, fingerprint_;
  std::vector<std::string> warnings_;
};

TEST_F(CalibrationFile, NoneIsNeeded) {
  const auto model = load();
  EXPECT_EQ(model->calibration(), "");
  EXPECT_TRUE(model->hparams().layer_shares.empty());
}

TEST_F(CalibrationFile, TheOneBesideTheModelIsFoundByFingerprintAndDepth) {
  write("a.calibration.json", text("0123456789abcdef", {1, 2, 3}));
  write("b.calibration.json", text({1, 2, 3, 4}));
  write("c.json", text({3, 2, 1}));
  EXPECT_EQ(load()->calibration(), "");
  EXPECT_TRUE(warnings_.empty()) << warnings_.front();
  // Any file name: the GGUFs of a model in all their types share one.
  const auto file = write("made here.calibration.json", text({1, 2, 3}));
  const auto model = load();
  EXPECT_EQ(model->calibration(), file);
  EXPECT_EQ(model->hparams().layer_shares, (std::vector<double>{0.5, 1, 1.5}));  // the mean is 1
  // Of two the first by name, whatever order the folder lists them in.
  const auto first = write("d.calibration.json", text({1, 1, 1}));
  EXPECT_EQ(load()->calibration(), first);
  fs::create_directory(path("folder.calibration.json"));
  EXPECT_EQ(load()->calibration(), first);
}

TEST_F(CalibrationFile, NoneTurnsItOff) {
  write("m.calibration.json", text({1, 2, 3}));
  const auto model = load("none");
  EXPECT_EQ(model->calibration(), "");
  EXPECT_TRUE(model->hparams().layer_shares.empty());
}

TEST_F(CalibrationFile, AModelInTheWorkingFolderIsFoundOne) {
  write("m.calibration.json", text({1, 2, 3}));
  const auto before = fs::current_path();
  fs::current_path(folder_);
  ModelOptions options;
  options.weights = false;
  const auto found = Model::load("model-f16.gguf", options)->calibration();
  fs::current_path(before);
  EXPECT_EQ(fs::path(found).filename(), "m.calibration.json");
}

TEST_F(CalibrationFile, ByPathAnotherModelsIsRefused) {
  expect_refused(text("0123456789abcdef", {1, 2, 3}), "another model");
  expect_refused(text({1, 2}), "of 2 layers");
  EXPECT_EQ(load(write("right.json", text({1, 2, 3})))->hparams().layer_shares[2], 1.5);
}

TEST_F(CalibrationFile, WhatIsNoCalibrationIsRefused) {
  const auto shares = [&](const char* list) {
    return fmt::format(R"({{"model": "m", "fingerprint": "{}", "layer_shares": {}}})", fingerprint_, list);
  };
  for (const auto& content :
       {std::string(""), std::string("{"), std::string("[]"), std::string("{}"), std::string("3"),
        std::string("null"), std::string(R"({"model": "random 5", "layer_shares": [1, 2, 3]})"),
        std::string(R"({"fingerprint": 5, "model": "m", "layer_shares": [1, 2, 3]})"), shares("3"),
        shares("[]"), shares("[1, \"2\", 3]"), shares("[1, null, 3]"), shares("[1, NaN, 3]"),
        shares("[1, 1e999, 3]"), shares("[1,\n 2,\n "), std::string("\xff\xfe\n\x01")})
    expect_refused(content, "not a calibration");
  // The last ones have no mean that a double holds.
  for (const char* list : {"[0, 1, 2]", "[-1, 1, 3]", "[1, 1, -0.0]", "[1, 1, 1e300]", "[1, 1, 1e-300]",
                           "[5e-324, 5e-324, 5e-324]"})
    expect_refused(shares(list), "from 0.000001 to");
  const auto missing = refusal(path("missing.json"));
  EXPECT_NE(missing.find("missing.json"), std::string::npos) << missing;
  EXPECT_NE(refusal(folder_), "");
}

TEST_F(CalibrationFile, ABrokenOneBesideTheModelIsPassedOverWithALine) {
  const auto broken = write("a.calibration.json", "{");
  EXPECT_EQ(load()->calibration(), "");
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find(broken), std::string::npos) << warnings_[0];
  EXPECT_EQ(warnings_[0].find('\n'), std::string::npos) << warnings_[0];
  const auto right = write("b.calibration.json", text({1, 2, 3}));
  EXPECT_EQ(load()->calibration(), right);
  EXPECT_EQ(warnings_.size(), 1u);
  load("none");
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(CalibrationFile, AModelKeepsItsFingerprintUnderAnotherName) {
  const auto file = write("m.calibration.json", text({1, 2, 3}));
  model_ = edit_gguf(model_, "unnamed.gguf", [](GgufEdit& e) { gguf_remove_key(e.meta, "general.name"); });
  EXPECT_EQ(load(file)->calibration(), file);
}

TEST(Fingerprint, IsOfTheModelAndNotOfItsWeightTypes) {
  auto of = [](const RandomModel& m, const char* name) {
    ModelOptions options;
    options.weights = false;
    return Model::load(random_model_path(name, m), options)->hparams().fingerprint;
  };
  RandomModel m;
  const auto fingerprint = of(m, "fingerprint_a");
  EXPECT_EQ(fingerprint.size(), 16u);
  RandomModel quantized = m;
  quantized.type = GGML_TYPE_Q8_0;
  EXPECT_EQ(of(quantized, "fingerprint_b"), fingerprint);
  RandomModel other = m;
  ++other.seed;
  EXPECT_NE(of(other, "fingerprint_c"), fingerprint);
  RandomModel wider = m;
  wider.n_ff *= 2;
  EXPECT_NE(of(wider, "fingerprint_d"), fingerprint);
}

TEST(BuiltInCalibration, IsFoundByTheModelWhereverItLies) {
  // In both types, from a folder without a calibration.
  for (const char* file : {"minilong-6m-f16.gguf", "minilong-6m-q8_0.gguf"}) {
    const auto folder = temp_path(fmt::format("built_in_{}", file));
    fs::create_directory(folder);
    const auto model = (fs::path(folder) / file).string();
    fs::copy_file(fs::path(WINDOWKV_MODELS_DIR) / file, model, fs::copy_options::overwrite_existing);
    ModelOptions options;
    options.weights = false;
    const auto loaded = Model::load(model, options);
    EXPECT_EQ(loaded->calibration(), "built in");
    EXPECT_EQ(loaded->hparams().layer_shares, (std::vector<double>{0.25, 0.25, 0.25, 0.25, 1, 4}));
    options.calibration = "none";
    EXPECT_EQ(Model::load(model, options)->calibration(), "");
  }
}

/// windowkv with one layer at another budget than the others: what calibrate() composes of caches.
class OneLayer final : public Policy {
 public:
  OneLayer(const SelectionConfig& config, double percent, int layer, double factor)
      : base_(make_policy("windowkv", {Budget::percent(percent), config})),
        other_(make_policy("windowkv", {Budget::percent(percent * factor), config})),
        layer_(layer) {}
  std::string_view name() const override { return "windowkv"; }
  std::unique_ptr<Selector> start(const PromptShape& shape) const override {
    return std::make_unique<Both>(base_->start(shape), other_->start(shape), layer_);
  }

 private:
  class Both final : public Selector {
   public:
    Both(std::unique_ptr<Selector> base, std::unique_ptr<Selector> other, int layer)
        : base_(std::move(base)), other_(std::move(other)), layer_(layer) {}
    int64_t observation() const override { return std::max(base_->observation(), other_->observation()); }
    int64_t capacity(int layer) const override { return of(layer).capacity(layer); }
    bool decides(int layer) const override { return of(layer).decides(layer); }
    ggml_tensor* build(ggml_context* ctx, std::span<const LayerView> views) const override {
      return of(views.front().layer).build(ctx, views);
    }
    KeptTokens choose(int layer, std::span<const int32_t> picked) override {
      return of(layer).choose(layer, picked);
    }
    std::vector<GroupSelection> groups() const override { return base_->groups(); }

   private:
    Selector& of(int layer) const { return layer == layer_ ? *other_ : *base_; }
    std::unique_ptr<Selector> base_, other_;
    int layer_;
  };
  std::unique_ptr<Policy> base_, other_;
  int layer_;
};

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
  int64_t last = 0, whole = 0;
  options_.progress = [&](int64_t done, int64_t total) {
    EXPECT_GE(done, last);
    EXPECT_LE(done, total);
    last = done;
    whole = total;
  };
  const auto r = run();
  EXPECT_GT(whole, 0);
  EXPECT_EQ(last, whole);
  options_.progress = {};
  ASSERT_EQ(r.layer_shares.size(), static_cast<size_t>(kLayers));
  EXPECT_NEAR(total(r), kLayers, 1e-9);
  for (double share : r.layer_shares) {
    EXPECT_GE(share, *std::begin(kCalibrationFactors));
    EXPECT_LE(share, *std::rbegin(kCalibrationFactors));
  }
  EXPECT_EQ(r.by_prompt.size(), 2u);
  ASSERT_EQ(r.kl.size(), static_cast<size_t>(kLayers));
  for (const auto& layer : r.kl) {
    ASSERT_EQ(layer.size(), std::size(kCalibrationFactors));
    for (double kl : layer) EXPECT_TRUE(std::isfinite(kl) && kl >= 0) << kl;
  }
  const auto again = run();
  EXPECT_EQ(again.layer_shares, r.layer_shares);
  EXPECT_EQ(again.kl, r.kl);
}

TEST_F(Calibrate, ComposedCachesSayWhatAPrefillWithOneLayerAtThatBudgetDoes) {
  const auto r = run();
  Engine engine(*model_);
  SelectionOverrides overrides;
  overrides.pyramid = Pyramid::kFlat;
  const auto config = make_config("default", Task::kLocalization, kLayers, overrides);
  const auto full = make_policy("full", {Budget::percent(100), config});
  for (int layer = 0; layer < kLayers; ++layer)
    for (size_t f = 0; f < std::size(kCalibrationFactors); ++f) {
      const OneLayer policy(config, options_.percent, layer, kCalibrationFactors[f]);
      double kl = 0;
      for (const auto& prompt : prompts_) {
        std::vector<Sequence> sequences(2);
        const Policy* const policies[] = {full.get(), &policy};
        const auto span = engine.prefill(sequences, prompt, policies);
        const auto reference = eval::reference_answer(
            engine, nullptr, sequences[0], std::vector<float>(span.begin(), span.end()), options_.max_tokens);
        kl += eval::measure_fidelity(engine, sequences[1], reference).mean_kl / 2;
      }
      EXPECT_NEAR(r.kl[static_cast<size_t>(layer)][f], kl, 1e-5 + 1e-3 * kl) << layer << ' ' << f;
    }
}

TEST_F(Calibrate, OnlyCachesOfOnePromptAreComposed) {
  Engine engine(*model_);
  std::vector<Sequence> sequences(3);
  for (size_t i = 0; i < 3; ++i) engine.prefill(sequences[i], prompts_[i % 2], *full_policy());
  auto compose = [&](std::vector<const Sequence*> by_layer) { return engine.compose(by_layer); };
  const auto *a = &sequences[0], *other = &sequences[1], *b = &sequences[2];
  EXPECT_EQ(compose({a, b, a, b}).kept, a->kept);
  EXPECT_THROW(compose({a, b, a}), Error);
  EXPECT_THROW(compose({a, b, a, other}), Error);
  EXPECT_THROW(compose({a, b, a, nullptr}), Error);
  const Sequence empty;
  EXPECT_THROW(compose({&empty, a, a, a}), Error);
  engine.decode(sequences[2], 3);
  EXPECT_THROW(compose({a, b, a, b}), Error);
  sequences[2].rewind();
  EXPECT_NO_THROW(compose({a, b, a, b}));
}

TEST_F(Calibrate, GoesOnWhereAnEarlierRunWasStopped) {
  const auto expected = run();
  const auto path = temp_path("calibrate_log.jsonl");
  fs::remove(path);
  int64_t whole = 0;
  {
    eval::JsonlLog log(path);
    options_.log = &log;
    int64_t stop_at = 0;
    options_.progress = [&](int64_t done, int64_t total) {
      whole = total;
      stop_at = done;
    };
    options_.cancelled = [&] {
      return whole > 0 && stop_at > whole - 30;
    };  // among the second prompt's layers
    EXPECT_THROW(run(), Cancelled);
    EXPECT_GT(log.rows().size(), static_cast<size_t>(kLayers));
  }
  options_.cancelled = {};
  {
    eval::JsonlLog log(path);
    options_.log = &log;
    options_.progress = [&](int64_t, int64_t total) { EXPECT_LT(total, whole); };
    const auto r = run();
    EXPECT_EQ(r.layer_shares, expected.layer_shares);
    EXPECT_EQ(log.rows().size(), static_cast<size_t>(2 * kLayers));
  }
  {
    // Nothing is left to do; under other settings everything is.
    eval::JsonlLog log(path);
    options_.log = &log;
    options_.progress = [&](int64_t, int64_t) { ADD_FAILURE() << "measured again"; };
    EXPECT_EQ(run().layer_shares, expected.layer_shares);
    options_.progress = [&](int64_t, int64_t total) { EXPECT_EQ(total, whole); };
    options_.setup = "other";
    run();
    EXPECT_EQ(log.rows().size(), static_cast<size_t>(4 * kLayers));
  }
}

TEST_F(Calibrate, ADamagedRowOfAnEarlierRunIsRefused) {
  const auto path = temp_path("calibrate_damaged.jsonl");
  std::vector<std::string> keys;
  {
    eval::JsonlLog log(path);
    options_.log = &log;
    run();
    for (const auto& row : log.rows()) keys.push_back(row.at("key"));
  }
  for (const char* kl : {"[0.5]", "[1, 2, 3, 4]", "[1, null, 2]", "\"none\""}) {
    SCOPED_TRACE(kl);
    fs::remove(path);
    std::ofstream(path) << fmt::format(R"({{"key": "{}", "kl": {}}})", keys.front(), kl) << "\n";
    eval::JsonlLog log(path);
    options_.log = &log;
    EXPECT_THROW(run(), Error);
  }
}

/// Prompts whose KL falls by slopes[layer] whenever the layer's budget doubles.
eval::LayerKl falling(const std::vector<double>& slopes) {
  eval::LayerKl kl;
  for (const double slope : slopes) {
    auto& layer = kl.emplace_back();
    for (const double factor : kCalibrationFactors) layer.push_back(3 - slope * std::log2(factor));
  }
  return kl;
}

void expect_shares(const std::vector<eval::LayerKl>& prompts, const std::vector<double>& expected) {
  const auto shares = eval::share_out(prompts);
  ASSERT_EQ(shares.size(), expected.size());
  for (size_t l = 0; l < shares.size(); ++l) EXPECT_NEAR(shares[l], expected[l], 1e-6) << l;
}

TEST(LayerShares, AreInProportionToWhatADoublingGains) {
  expect_shares({falling({0.1, 0.2, 0.3})}, {0.5, 1, 1.5});
  expect_shares({falling({0.1, 0.1, 0.4}), falling({0.2, 0.2, 0.8})}, {0.5, 0.5, 2});
}

TEST(LayerShares, StayWithinWhatWasTried) {
  expect_shares({falling({0, -0.1, 0, 0, 0.05, 5})}, {0.25, 0.25, 0.25, 0.25, 1, 4});
  expect_shares({falling({0, 0, 0})}, {1, 1, 1});
  expect_shares({falling({-1, -2, -3})}, {1, 1, 1});
  expect_shares({falling({1})}, {1});
}

TEST(LayerShares, PromptsThatDisagreeLeaveThemNearTheSame) {
  const auto agreed = eval::share_out(std::vector{falling({0.1, 0.2, 0.3}), falling({0.1, 0.2, 0.3})});
  const auto loose = eval::share_out(std::vector{falling({0.15, 0.1, 0.35}), falling({0.05, 0.3, 0.25})});
  for (size_t l = 0; l < agreed.size(); ++l)
    EXPECT_LE(std::abs(loose[l] - 1), std::abs(agreed[l] - 1) + 1e-9) << l;
  EXPECT_LT(loose[2], agreed[2] - 0.05);
  expect_shares({falling({0.1, 0.4, 0.4}), falling({0.4, 0.1, 0.4}), falling({0.4, 0.4, 0.1})}, {1, 1, 1});
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
      for (const auto& layer : r.kl)
        EXPECT_NEAR(layer[eval::kUnchangedFactor], 0, 1e-9);  // nothing is dropped
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
