// LongBench: rows in, prompts cut, answers scored, runs taken up again.
#include "eval/longbench.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "support/files.h"
#include "support/models.h"
#include "windowkv/error.h"

namespace windowkv::eval {
namespace {

using nlohmann::json;

std::string write_text(const std::string& name, const std::string& text) {
  return test::write_bytes(name, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

json official_row(const std::string& dataset, const std::string& id) {
  return {{"_id", id},
          {"dataset", dataset},
          {"context", "Ada lives in {input} Oslo."},
          {"input", "Where does Ada live?"},
          {"answers", {"Oslo", "in Oslo"}},
          {"all_classes", nullptr},
          {"length", 8},
          {"language", "en"}};
}

json own_row(const std::string& id, const std::string& prompt) {
  return {{"_id", id},         {"dataset", "mine"},   {"prompt", prompt},     {"answers", {"48213"}},
          {"metric", "exact"}, {"max_new_tokens", 7}, {"task", "aggregation"}};
}

Samples load_one(const std::string& path, const LoadOptions& options = {}) {
  return load_samples(std::vector<std::string>{path}, options);
}

std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

Contender full_contender() {
  return {"full", "full", "100%", [](Task) { return test::full_policy(); }};
}

TEST(LongbenchDatasets, TheBenchmarksTwentyOne) {
  std::set<std::string_view> names, plain, first_line, localization;
  for (const auto& d : longbench_datasets()) {
    names.insert(d.name);
    if (!d.chat) plain.insert(d.name);
    if (d.first_line) first_line.insert(d.name);
    if (d.task == Task::kLocalization) localization.insert(d.name);
    EXPECT_NE(d.prompt.find("{context}"), std::string_view::npos) << d.name;
    EXPECT_TRUE(d.language == "en" || d.language == "zh") << d.name;
  }
  EXPECT_EQ(names.size(), 21u);
  EXPECT_EQ(plain, (std::set<std::string_view>{"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}));
  EXPECT_EQ(first_line, (std::set<std::string_view>{"trec", "triviaqa", "samsum", "lsht"}));
  EXPECT_EQ(localization,
            (std::set<std::string_view>{"narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh",
                                        "hotpotqa", "2wikimqa", "musique", "dureader", "passage_retrieval_en",
                                        "passage_retrieval_zh"}));
  EXPECT_EQ(find_dataset("qasper_e"), find_dataset("qasper"));
  EXPECT_EQ(find_dataset("mine"), nullptr);
}

TEST(LongbenchLoad, OfficialRow) {
  const auto loaded =
      load_one(write_text("official.jsonl", official_row("multifieldqa_en", "1").dump() + "\n"));
  ASSERT_EQ(loaded.samples.size(), 1u);
  EXPECT_TRUE(loaded.broken.empty());
  const auto& s = loaded.samples[0];
  // The context's own braces stay as they are.
  EXPECT_EQ(s.prompt,
            "Read the following text and answer briefly.\n\nAda lives in {input} Oslo.\n\nNow, answer the "
            "following "
            "question based on the above text, only give me the answer and do not output any other words.\n\n"
            "Question: Where does Ada live?\nAnswer:");
  EXPECT_EQ(s.metric, Metric::kQaF1);
  EXPECT_EQ(s.max_new_tokens, 64);
  EXPECT_EQ(s.task, Task::kLocalization);
  EXPECT_TRUE(s.chat);
  EXPECT_FALSE(s.own_prompt);
  EXPECT_TRUE(s.stop.empty());
  EXPECT_DOUBLE_EQ(score(s, "In Oslo!"), 100);
}

TEST(LongbenchLoad, OwnPrompts) {
  const auto loaded = load_one(write_text("own.jsonl", own_row("1", "The number is:").dump() + "\n" +
                                                           own_row("2", "Number?<|im_end|>\n").dump()));
  ASSERT_EQ(loaded.samples.size(), 2u);
  const auto& s = loaded.samples[0];
  EXPECT_EQ(s.prompt, "The number is:");
  EXPECT_EQ(s.metric, Metric::kExact);
  EXPECT_EQ(s.max_new_tokens, 7);
  EXPECT_EQ(s.task, Task::kAggregation);
  EXPECT_FALSE(s.chat);
  EXPECT_TRUE(s.own_prompt);
  EXPECT_EQ(s.stop, std::vector<std::string>{"\n"});  // ends within a line
  EXPECT_TRUE(loaded.samples[1].stop.empty());
}

TEST(LongbenchLoad, BrokenRowsAreListedAndSkipped) {
  auto without = [](json row, const char* name) {
    row.erase(name);
    return row.dump();
  };
  auto with = [](json row, const char* name, const json& value) {
    row[name] = value;
    return row.dump();
  };
  const auto good = official_row("qasper", "good");
  const std::vector<std::pair<std::string, std::string>> lines = {
      {good.dump(), ""},
      {"{\"_id\": \"torn", "not a JSON object"},
      {"[1]", "not a JSON object"},
      {"", ""},  // counted, not complained of
      {"{\"_id\": \"\xFF\"}", "not UTF-8 text (byte 9 of the line)"},
      {without(official_row("qasper", "a"), "context"), "no field \"context\""},
      {without(official_row("qasper", "b"), "_id"), "no field \"_id\""},
      {with(official_row("qasper", "c"), "answers", "Oslo"), "\"answers\" is not a list of strings"},
      {with(official_row("qasper", "d"), "answers", json::array()), "no answers"},
      {with(official_row("qasper", "e"), "input", 3), "\"input\" is not a string"},
      {good.dump(), "another sample of qasper has the _id \"good\""},
      {official_row("mine", "f").dump(),
       "dataset \"mine\" is not one of LongBench's, and the sample has no \"prompt\""},
      {with(own_row("g", "p"), "metric", "bleu"), "unknown metric \"bleu\""},
      {with(own_row("h", "p"), "max_new_tokens", 0), "\"max_new_tokens\" is not a number of tokens"},
      {with(own_row("i", "p"), "prompt", ""), "the prompt is empty"},
      {without(own_row("j", "p"), "task"), "no field \"task\""},
      {R"({"prompt": "p", "answers": ["a"], "metric": "exact", "max_new_tokens": 7, "task": "aggregation"})",
       ""},
      {official_row("passage_retrieval_en", "k").dump(), "the answer \"Oslo\" names no paragraph"},
      {official_row("trec", "l").dump(), "no \"all_classes\""},
      {official_row("qasper", "last").dump() + "\r", ""},
  };
  std::string text;
  for (const auto& line : lines) text += line.first + "\n";
  const auto path = write_text("broken.jsonl", text);
  const auto loaded = load_one(path);
  ASSERT_EQ(loaded.samples.size(), 3u);
  // Without a name and a number: its file's, and its line's.
  EXPECT_EQ(loaded.samples[1].dataset, "broken");
  EXPECT_EQ(lines[std::stoul(loaded.samples[1].id) - 1].first.substr(0, 10), "{\"prompt\":");
  EXPECT_EQ(loaded.samples[2].id, "last");
  auto broken = loaded.broken.begin();
  for (size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].second.empty()) continue;
    ASSERT_NE(broken, loaded.broken.end());
    EXPECT_EQ(broken->line, i + 1);
    EXPECT_EQ(broken->file, path);
    EXPECT_EQ(broken->what.substr(0, lines[i].second.size()), lines[i].second);
    EXPECT_EQ(broken->text(), path + ":" + std::to_string(i + 1) + ": " + broken->what);
    ++broken;
  }
  EXPECT_EQ(broken, loaded.broken.end());
}

TEST(LongbenchLoad, FoldersDatasetsAndLimits) {
  const auto folder = test::temp_path("longbench-folder");
  std::filesystem::create_directories(folder);
  auto put = [&](const std::string& name, const std::vector<json>& rows) {
    std::ofstream out(folder + "/" + name);
    for (const auto& row : rows) out << row.dump() << "\n";
  };
  put("b.jsonl", {official_row("qasper", "1"), official_row("qasper", "2"), official_row("qasper", "3")});
  put("a.jsonl", {official_row("musique", "1"), official_row("hotpotqa", "1")});
  put("notes.txt", {"not read"});
  auto names = [](const Samples& loaded) {
    std::string all;
    for (const auto& s : loaded.samples) all += s.dataset + s.id + " ";
    return all;
  };
  EXPECT_EQ(names(load_one(folder)), "musique1 hotpotqa1 qasper1 qasper2 qasper3 ");
  EXPECT_EQ(names(load_one(folder, {.limit = 2})), "musique1 hotpotqa1 qasper1 qasper2 ");
  EXPECT_EQ(names(load_one(folder, {.datasets = {"qasper"}, .limit = 1})), "qasper1 ");
  EXPECT_EQ(message_of([&] { load_one(folder, {.datasets = {"trec"}}); }),
            "no samples of dataset \"trec\"; the files have: hotpotqa, musique, qasper");
  std::filesystem::create_directories(folder + "/empty");
  EXPECT_EQ(message_of([&] { load_one(folder + "/empty"); }),
            folder + "/empty: no .jsonl file in this folder");
  EXPECT_NE(message_of([&] { load_one(folder + "/none.jsonl"); }).find("cannot read"), std::string::npos);
  std::filesystem::remove_all(folder);
}

TEST(LongbenchLoad, OfAFolderOnlyFilesThatMayHoldAWantedDataset) {
  const auto folder = test::temp_path("longbench-names");
  std::filesystem::create_directories(folder);
  auto put = [&](const std::string& name, const std::string& text) {
    std::ofstream(folder + "/" + name) << text;
  };
  auto nameless = official_row("qasper", "2");
  nameless.erase("dataset");
  put("qasper.jsonl", official_row("qasper", "1").dump() + "\n" + nameless.dump() + "\n");
  put("trec.jsonl", "not\njson\nat all\n");
  put("other.jsonl", "neither\n" + official_row("musique", "1").dump() + "\n");
  auto rows = [&](std::vector<std::string> datasets) {
    const auto loaded = load_one(folder, {.datasets = std::move(datasets)});
    return std::pair(loaded.samples.size(), loaded.broken_files());
  };
  using Files = std::vector<std::string>;
  EXPECT_EQ(rows({"qasper"}), std::pair(size_t{2}, Files{}));
  const Files other = {folder + "/other.jsonl:1: not a JSON object"};
  EXPECT_EQ(rows({"musique"}), std::pair(size_t{1}, other));
  EXPECT_EQ(rows({"qasper", "musique"}), std::pair(size_t{3}, other));
  EXPECT_EQ(rows({}), std::pair(size_t{3}, Files{other[0], folder + "/trec.jsonl:1: not a JSON object (2 "
                                                                    "more lines of this file are broken)"}));
  std::filesystem::remove_all(folder);
}

json ruler_row(const std::string& task, int index) {
  return {{"task", task},
          {"max_seq_length", 4096},
          {"index", index},
          {"input", "What are the numbers?"},
          {"outputs", {"12", "Forty"}},
          {"length", 40},
          {"answer_prefix", " The numbers are"}};
}

TEST(LongbenchLoad, ResultsThatLieInAFolderAreNoData) {
  const auto folder = test::temp_path("longbench-results");
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/data.jsonl") << own_row("1", "Number:").dump();
  std::ofstream(folder + "/results.jsonl") << "{\"key\":\"own/1 x\",\"dataset\":\"own\",\"score\":1}\n";
  // A row that begins like a result and is a sample is one.
  std::ofstream(folder + "/keyed.jsonl") << "{\"key\":\"1\"," << own_row("2", "Number:").dump().substr(1);
  const auto loaded = load_one(folder, {});
  EXPECT_TRUE(loaded.broken.empty());
  EXPECT_EQ(loaded.samples.size(), 2u);
  EXPECT_EQ(load_one(folder + "/results.jsonl").broken.size(), 1u);  // by name it is read
  std::filesystem::remove_all(folder);
}

TEST(LongbenchLoad, RowsOfRuler) {
  auto untold = ruler_row("", 2);
  untold.erase("task");
  auto wrong = ruler_row("niah_none", 3);
  const auto loaded = load_one(write_text(
      "vt.jsonl", ruler_row("niah_multivalue", 0).dump() + "\n" + ruler_row("qa_1", 1).dump() + "\n" +
                      untold.dump() + "\n" + wrong.dump() + "\n" + ruler_row("qa_1", 1).dump() + "\n"));
  ASSERT_EQ(loaded.samples.size(), 3u);
  EXPECT_EQ(loaded.broken.size(), 2u);  // the unknown task, and the repeated one
  const auto& all = loaded.samples[0];
  EXPECT_EQ(all.dataset + " " + all.id, "niah_multivalue 4096-0");
  EXPECT_EQ(all.max_new_tokens, 128);
  EXPECT_EQ(all.answer_prefix, " The numbers are");
  EXPECT_DOUBLE_EQ(score(all, "they are forty and 13"), 50);
  const auto& part = loaded.samples[1];
  EXPECT_EQ(part.max_new_tokens, 32);
  EXPECT_DOUBLE_EQ(score(part, "they are forty and 13"), 100);
  EXPECT_DOUBLE_EQ(score(part, "none"), 0);
  EXPECT_EQ(loaded.samples[2].dataset, "vt");
}

TEST(LongbenchLoad, LongbenchEIsApart) {
  const auto folder = test::temp_path("longbench-e-folder");
  std::filesystem::create_directories(folder);
  auto put = [&](const std::string& name, const std::vector<json>& rows) {
    std::ofstream out(folder + "/" + name);
    for (const auto& row : rows) out << row.dump() << "\n";
  };
  auto no_length = official_row("qasper_e", "2");
  no_length.erase("length");
  auto bad_length = official_row("qasper_e", "3");
  bad_length["length"] = "long";
  auto classified = official_row("trec", "1");  // rows call their dataset by either name
  classified["all_classes"] = {"Oslo"};
  put("qasper.jsonl", {official_row("qasper", "1")});
  put("qasper_e.jsonl", {official_row("qasper_e", "1"), no_length, bad_length});
  put("trec_e.jsonl", {classified});
  put("some_e.jsonl", {own_row("1", "p")});  // none of LongBench's
  auto names = [](const Samples& loaded) {
    std::string all;
    for (const auto& s : loaded.samples) {
      all += s.dataset + s.id;
      if (s.length) all.append(":").append(std::to_string(*s.length));
      all += " ";
    }
    return all;
  };
  EXPECT_EQ(names(load_one(folder)), "qasper1 mine1 ");
  const auto e = load_one(folder, {.longbench_e = true});
  EXPECT_EQ(names(e), "qasper_e1:8 trec_e1:8 ");
  ASSERT_EQ(e.broken.size(), 2u);
  EXPECT_EQ(e.broken[0].what, "no field \"length\"");
  EXPECT_EQ(e.broken[1].what, "\"length\" is not a number of words");
  EXPECT_EQ(e.samples[1].metric, Metric::kClassification);
  EXPECT_TRUE(e.samples[1].first_line);
  EXPECT_EQ(names(load_one(folder + "/qasper_e.jsonl")), "qasper_e1:8 ");  // a file is asked for by name
  for (const char* name : {"qasper.jsonl", "some_e.jsonl"})
    std::filesystem::remove(std::filesystem::path(folder) / name);
  EXPECT_EQ(message_of([&] { load_one(folder); }),
            folder + ": no .jsonl file in this folder but LongBench-E's; they are run with --e");
  std::filesystem::remove_all(folder);
}

TEST(LongbenchSummaryTest, LongbenchEByLength) {
  // The bounds of eval.py's scorer_e: under 4000, under 8000, the rest.
  const std::vector<std::pair<int64_t, double>> rows = {{0, 10},    {3999, 30}, {4000, 50},
                                                        {7999, 70}, {8000, 90}, {20000, 40}};
  std::vector<Sample> samples;
  std::vector<Outcome> outcomes;
  auto add = [&](const char* dataset, int64_t length, std::optional<double> score) {
    Sample sample;
    sample.dataset = dataset;
    sample.length = length;
    samples.push_back(sample);
    outcomes.push_back({.score = score});
  };
  for (const auto& [length, score] : rows) add("qasper_e", length, score);
  add("trec_e", 100, 100);
  add("trec_e", 100, std::nullopt);  // failed
  auto summary = summarize(samples, outcomes);
  EXPECT_TRUE(summary.has_bins());
  EXPECT_EQ(summary.datasets[0].bins, (BinScores{20, 60, 65}));
  EXPECT_EQ(summary.datasets[1].bins, (BinScores{100, std::nullopt, std::nullopt}));
  EXPECT_EQ(summary.bins, (BinScores{60, 60, 65}));
  EXPECT_EQ(summary.json()["datasets"][1]["bins"].dump(), R"({"0-4k":100.0,"4-8k":null,"8k+":null})");
  for (auto& sample : samples) sample.length.reset();
  summary = summarize(samples, outcomes);
  EXPECT_FALSE(summary.has_bins());
  EXPECT_FALSE(summary.json().contains("bins"));
}

TEST(LongbenchScore, OnlyTheFirstLineCountsWhereTheBenchmarkSaysSo) {
  auto row = official_row("triviaqa", "1");
  const auto first_line = load_one(write_text("first.jsonl", row.dump())).samples.at(0);
  EXPECT_DOUBLE_EQ(score(first_line, "\n\nOslo\nPassage: more words here"), 100);
  EXPECT_DOUBLE_EQ(score(first_line, " \nOslo"), 0);  // only newlines are skipped
  EXPECT_DOUBLE_EQ(score(first_line, "\n"), 0);
  row["dataset"] = "hotpotqa";
  const auto whole = load_one(write_text("whole.jsonl", row.dump())).samples.at(0);
  EXPECT_DOUBLE_EQ(score(whole, "\n\nOslo\nmore"), 200. / 3);  // oslo more | oslo: 2·1/(2+1)
}

class LongbenchPrompts : public testing::Test {
 protected:
  static constexpr int kLong = 3000;  // repeats that no trained context of MiniLong holds

  std::unique_ptr<Model> model_ = test::load(test::minilong_path("q8_0"));
  const Vocab& vocab_ = model_->vocab();

  Sample sample(bool chat, bool own, int repeats) const {
    Sample s;
    s.chat = chat;
    s.own_prompt = own;
    s.max_new_tokens = 48;
    s.prompt = "Beginning.";
    for (int i = 0; i < repeats; ++i) s.prompt += " word é";
    s.prompt += " End.";
    return s;
  }
};

TEST_F(LongbenchPrompts, ShortPromptsStayWhole) {
  const auto plain = sample(false, false, 20);
  EXPECT_EQ(sample_tokens(*model_, plain), vocab_.tokenize(plain.prompt));
  const auto chat = sample(true, false, 20);
  EXPECT_EQ(sample_tokens(*model_, chat),
            vocab_.tokenize(vocab_.apply_chat_template({{"user", chat.prompt}})));
}

TEST_F(LongbenchPrompts, LongOnesLoseTheirMiddle) {
  const auto plain = sample(false, false, kLong);
  const auto all = vocab_.tokenize(plain.prompt);
  const auto cut = sample_tokens(*model_, plain, 101);  // halves are 50 each, as LongBench's int(max/2)
  ASSERT_EQ(cut.size(), 100u);
  EXPECT_TRUE(std::equal(cut.begin(), cut.begin() + 50, all.begin()));
  EXPECT_TRUE(std::equal(cut.end() - 50, cut.end(), all.end() - 50));
  const auto room = static_cast<size_t>(model_->hparams().n_ctx_train - 48);
  ASSERT_GT(all.size(), room);
  EXPECT_EQ(sample_tokens(*model_, plain).size(), room);

  // The template is put around what is left.
  for (const int length : {100, 102, 104, 106}) {
    const auto text = vocab_.text(sample_tokens(*model_, sample(true, false, kLong), length), true);
    EXPECT_NE(text.find("<|im_start|>user\nBeginning. word"), std::string::npos) << text;
    EXPECT_TRUE(text.ends_with("word é End.<|im_end|>\n<|im_start|>assistant\n")) << text;
    EXPECT_EQ(text.find("\uFFFD"), std::string::npos);
  }
  const auto chat = sample_tokens(*model_, sample(true, false, kLong));
  EXPECT_LE(chat.size(), room);
  EXPECT_GT(chat.size(), room - 50);
}

TEST_F(LongbenchPrompts, OwnPromptsAreCutOnlyOnDemand) {
  const auto own = sample(false, true, kLong);
  EXPECT_EQ(sample_tokens(*model_, own), vocab_.tokenize(own.prompt));
  EXPECT_EQ(sample_tokens(*model_, own, 100).size(), 100u);
}

TEST_F(LongbenchPrompts, NoRoomForAnyPrompt) {
  auto s = sample(false, false, 10);
  const auto context = std::to_string(model_->hparams().n_ctx_train);
  s.max_new_tokens = model_->hparams().n_ctx_train;
  EXPECT_EQ(
      message_of([&] { sample_tokens(*model_, s); }),
      "an answer of " + context + " tokens leaves no room for a prompt in the trained context of " + context);
}

class LongbenchRun : public testing::Test {
 protected:
  void SetUp() override {
    LoadOptions two;
    two.limit = 2;
    samples_ = load_one(WINDOWKV_MODELS_DIR "/../data/minilong-suite/needles.jsonl", two).samples;
    ASSERT_EQ(samples_.size(), 2u);
    log_path_ = test::temp_path("longbench-results.jsonl");
    std::filesystem::remove(log_path_);
  }

  std::vector<Outcome> run(const LongbenchOptions& options, const Contender& contender = full_contender()) {
    return run_samples(engine_, *model_, samples_, contender, options);
  }

  /// A run that writes to the log; gives its content.
  std::string logged(LongbenchOptions options = {}, const Contender& contender = full_contender()) {
    {
      JsonlLog log(log_path_);
      options.log = &log;
      run(options, contender);
    }
    const auto bytes = test::read_bytes(log_path_);
    return {bytes.begin(), bytes.end()};
  }

  std::unique_ptr<Model> model_ = test::load(test::minilong_path("q8_0"));
  Engine engine_{*model_};
  std::vector<Sample> samples_;
  std::string log_path_;
};

TEST_F(LongbenchRun, AnswersAndScores) {
  const auto outcomes = run({});
  ASSERT_EQ(outcomes.size(), 2u);
  for (const auto& outcome : outcomes) {
    ASSERT_TRUE(outcome.score) << outcome.error;
    EXPECT_DOUBLE_EQ(outcome.kept_share, 1);
  }
  const auto summary = summarize(samples_, outcomes);
  ASSERT_EQ(summary.datasets.size(), 1u);
  EXPECT_EQ(summary.datasets[0].rows, 2);
  EXPECT_DOUBLE_EQ(*summary.overall, (*outcomes[0].score + *outcomes[1].score) / 2);
  EXPECT_DOUBLE_EQ(*summary.localization, *summary.overall);
  EXPECT_FALSE(summary.aggregation);
  EXPECT_GE(*summary.overall, 50);  // MiniLong finds nine needles in ten at this length
}

TEST_F(LongbenchRun, SamsumEndsAtANewlineButNotAtOnce) {
  // pred.py, samsum: eos_token_id = [eos, the last token of "\n"], min_length = the prompt's length + 1.
  const auto loaded = load_one(write_text("samsum.jsonl", official_row("samsum", "1").dump()));
  const auto& vocab = model_->vocab();
  auto options = sample_generation(vocab, loaded.samples.at(0));
  ASSERT_EQ(options.end_tokens.size(), 1u);
  EXPECT_EQ(vocab.piece(options.end_tokens[0]), "\n");
  EXPECT_EQ(options.min_tokens, 1);
  EXPECT_TRUE(options.stop.empty());
  EXPECT_EQ(options.max_tokens, 128);
  EXPECT_TRUE(sample_generation(vocab, samples_[0]).end_tokens.empty());

  // The token that the model wants first, made an end token: it ends the answer where it may, and is not
  // drawn where it may not.
  const auto prompt = sample_tokens(*model_, samples_[0]);
  auto generated = [&](const GenerateOptions& how) {
    Sequence sequence;
    const auto logits = engine_.prefill(sequence, prompt, *test::full_policy());
    return generate(engine_, &vocab, sequence, logits, prompt, how);
  };
  GenerateOptions how;
  how.max_tokens = 4;
  const auto wanted = generated(how).tokens.front();
  how.end_tokens = {wanted};
  auto out = generated(how);
  EXPECT_EQ(out.tokens, std::vector<Token>{wanted});
  EXPECT_EQ(out.reason, StopReason::kEnd);
  EXPECT_EQ(out.text, "");
  how.min_tokens = 1;
  out = generated(how);
  EXPECT_NE(out.tokens.front(), wanted);
  EXPECT_FALSE(vocab.is_end(out.tokens.front()));
  EXPECT_NE(out.text, "");
}

TEST_F(LongbenchRun, TheSameTwice) {
  const auto first = logged();
  std::filesystem::remove(log_path_);
  EXPECT_EQ(logged(), first);
}

TEST_F(LongbenchRun, GoesOnWhereItWasCutOff) {
  const auto whole = logged();
  const size_t first_line = whole.find('\n') + 1;
  ASSERT_LT(first_line, whole.size());
  for (const size_t length : {size_t{0}, size_t{10}, first_line, first_line + 25, whole.size() - 1}) {
    std::filesystem::resize_file(log_path_, length);
    int64_t work = -1;
    LongbenchOptions options;
    options.progress = [&](int64_t, int64_t total) { work = total; };
    EXPECT_EQ(logged(options), whole) << length;
    // Only what was missing was done again.
    const auto second = static_cast<int64_t>(samples_[1].prompt.size());
    EXPECT_EQ(work, length < first_line ? second + static_cast<int64_t>(samples_[0].prompt.size()) : second);
  }
  LongbenchOptions nothing_left;
  nothing_left.cancelled = [] { return true; };
  EXPECT_EQ(logged(nothing_left), whole);
}

TEST_F(LongbenchRun, CancelledBetweenSamples) {
  const auto first = static_cast<int64_t>(samples_[0].prompt.size());
  bool finished = false;
  LongbenchOptions options;
  options.progress = [&](int64_t done, int64_t) { finished = done >= first; };
  options.cancelled = [&] { return finished; };
  {
    JsonlLog log(log_path_);
    options.log = &log;
    EXPECT_EQ(run_samples(engine_, *model_, samples_, full_contender(), options).size(), 1u);
  }
  EXPECT_EQ(JsonlLog(log_path_).rows().size(), 1u);
}

TEST_F(LongbenchRun, AFailedSampleIsRecordedAndTriedAgain) {
  int calls = 0;
  Contender failing = full_contender();
  failing.make = [&](Task) -> std::unique_ptr<Policy> {
    if (++calls == 1) throw Error("does not fit");
    if (calls == 2) throw std::bad_alloc();
    return test::full_policy();
  };
  std::vector<std::string> told;
  LongbenchOptions options;
  options.failed = [&](const Sample& sample, const std::string& error) {
    told.push_back(sample.id + ": " + error);
  };
  JsonlLog log(log_path_);
  options.log = &log;
  const auto outcomes = run(options, failing);
  EXPECT_FALSE(outcomes[0].score);
  EXPECT_EQ(outcomes[0].error, "does not fit");
  EXPECT_EQ(outcomes[1].error, "out of memory");
  EXPECT_EQ(told,
            (std::vector<std::string>{"needles-5-0: does not fit", samples_[1].id + ": out of memory"}));
  ASSERT_EQ(log.rows().size(), 2u);
  EXPECT_EQ(log.rows()[0].at("error"), "does not fit");
  auto summary = summarize(samples_, outcomes);
  EXPECT_EQ(summary.failed, 2);
  EXPECT_FALSE(summary.overall);

  summary = summarize(samples_, run(options, failing));
  EXPECT_EQ(summary.failed, 0);
  EXPECT_EQ(summary.rows, 2);
  EXPECT_EQ(log.rows().size(), 4u);
}

TEST_F(LongbenchRun, ADamagedRowOfAnEarlierRunIsRefused) {
  logged();
  std::vector<nlohmann::ordered_json> rows = JsonlLog(log_path_).rows();
  rows[0].erase("score");
  std::filesystem::remove(log_path_);
  JsonlLog log(log_path_);
  log.append(rows[0]);
  LongbenchOptions options;
  options.log = &log;
  EXPECT_THROW(run(options), Error);
}

TEST_F(LongbenchRun, RowsDecideTheTaskUnlessToldOtherwise) {
  std::vector<Task> asked;
  auto contender = full_contender();
  contender.make = [&](Task task) {
    asked.push_back(task);
    return test::full_policy();
  };
  samples_[1].task = Task::kAggregation;
  run({}, contender);
  LongbenchOptions options;
  options.task = TaskChoice::parse("aggregation");
  run(options, contender);
  EXPECT_EQ(asked, (std::vector<Task>{Task::kLocalization, Task::kAggregation, Task::kAggregation,
                                      Task::kAggregation}));
}

TEST(LongbenchSummaryTest, AveragesOverDatasets) {
  std::vector<Sample> samples(4);
  samples[0].dataset = samples[1].dataset = samples[2].dataset = "a";
  samples[3].dataset = "b";
  samples[3].task = Task::kAggregation;
  const std::vector<Outcome> outcomes = {{.score = 100, .kept_share = 0.1},
                                         {.score = 0, .kept_share = 0.2},
                                         {.error = "no"},
                                         {.score = 20, .kept_share = 0.3}};
  const auto summary = summarize(samples, outcomes);
  EXPECT_DOUBLE_EQ(*summary.localization, 50);
  EXPECT_DOUBLE_EQ(*summary.aggregation, 20);
  EXPECT_DOUBLE_EQ(*summary.overall, 35);     // (50 + 20) / 2
  EXPECT_DOUBLE_EQ(summary.kept_share, 0.2);  // (0.1 + 0.2 + 0.3) / 3
  EXPECT_EQ(summary.datasets[0].failed, 1);
  EXPECT_EQ(summary.json()["datasets"][0]["rows"], 2);
}

TEST(LongbenchRealFile, MultiNews) {
  const std::string path = WINDOWKV_MODELS_DIR "/../../shared/data/longbench/multi_news.jsonl";
  if (!std::filesystem::exists(path))
    GTEST_SKIP() << path << " is not here; it may not be shipped (news texts)";
  const auto loaded = load_one(path);
  EXPECT_EQ(loaded.samples.size(), 200u);
  EXPECT_TRUE(loaded.broken.empty());
  const auto model = test::load(test::minilong_path("q8_0"));
  Engine engine(*model);
  auto first = loaded.samples[0];
  first.max_new_tokens = 16;  // the file's shape is what is tested; the model cannot summarize
  const auto outcomes = run_samples(engine, *model, std::span(&first, 1), full_contender());
  ASSERT_TRUE(outcomes[0].score) << outcomes[0].error;
  EXPECT_GE(*outcomes[0].score, 0);
  EXPECT_LE(*outcomes[0].score, 100);
  // A summary scores as itself: just under 100 by the package's 1e-8.
  EXPECT_NEAR(score(first, first.answers[0]), 100, 1e-5);
}

}  // namespace
}  // namespace windowkv::eval
