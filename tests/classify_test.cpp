// The built-in task classifier, its trainer and its figures.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "classify/excerpt.h"
#include "classify/features.h"
#include "classify/linear_model.h"
#include "classify/shape.h"
#include "eval/longbench.h"
#include "eval/task_choice.h"
#include "eval/task_report.h"
#include "eval/task_rows.h"
#include "eval/task_trainer.h"
#include "eval/words.h"
#include "support/file.h"
#include "support/files.h"
#include "windowkv/classifier.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

using namespace eval;

constexpr auto kLocal = Task::kLocalization;
constexpr auto kAggregate = Task::kAggregation;

std::string phrasings_path() {
  return WINDOWKV_DATA_DIR "/task-prompts/phrasings.txt";
}

/// A chapter of a novel, cut in the middle.
const std::string& story() {
  static const std::string text = data_text("sherlock.txt").substr(2000);
  return text;
}

Task told(const std::string& text) {
  return TaskClassifier::builtin().aggregation_probability(text) > 0.5 ? kAggregate : kLocal;
}

// --- What of a prompt is read

TEST(Excerpts, AreTheTwoEnds) {
  const auto e = take_excerpt(std::string(5000, 'a') + std::string(5000, 'b'));
  EXPECT_EQ(e.head, std::string(kExcerptBytes, 'a'));
  EXPECT_EQ(e.tail, std::string(kExcerptBytes, 'b'));
  EXPECT_EQ(take_excerpt("  short \n").head, "short");
  EXPECT_EQ(take_excerpt("  short \n").tail, "short");
  EXPECT_EQ(take_excerpt("").head, "");
}

TEST(Excerpts, LeaveChatMarksOut) {
  const std::string plain = "Sum up.\n\nA long text.";
  for (const std::string& marked : {"<|im_start|>user\n" + plain + "<|im_end|>\n<|im_start|>assistant\n",
                                    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n" + plain +
                                        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
                                    "<s>[INST] " + plain + " [/INST]",
                                    "<start_of_turn>user\n" + plain + "<end_of_turn>\n<start_of_turn>model\n",
                                    "Human: " + plain + "\n\nAssistant:"}) {
    EXPECT_EQ(take_excerpt(marked).head, plain) << marked;
    EXPECT_EQ(take_excerpt(marked).tail, plain) << marked;
  }
  EXPECT_EQ(take_excerpt("a <b> [c] <|d e|> user").head, "a <b> [c] <|d e|> user");
}

TEST(Excerpts, CutBetweenCharacters) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "日本";
  const auto e = take_excerpt("x" + text + "x");
  EXPECT_EQ(e.head.size() % 3, 1u);
  EXPECT_EQ(e.tail.size() % 3, 1u);
}

TEST(Excerpts, SplitIntoWords) {
  const auto texts = [](std::string_view text) {
    std::vector<std::string> out;
    for (const auto& word : split_excerpt(text)) out.push_back(word.text);
    return out;
  };
  using Texts = std::vector<std::string>;
  EXPECT_EQ(texts("Who's ÉMILE, 1987?\n\n\nДА"),
            (Texts{"who", "'", "s", "émile", ",", "0", "?", "\n", "да"}));
  EXPECT_EQ(texts("请总结=====\xff"), (Texts{"请", "总", "结", "=", "\xff"}));
  EXPECT_EQ(texts("  \n "), Texts{});
}

TEST(Features, AreSortedAndEachOnce) {
  const auto features = extract_features(story());
  ASSERT_GT(features.size(), 1000u);
  for (size_t i = 1; i < features.size(); ++i) EXPECT_LT(features[i - 1].bucket, features[i].bucket);
  EXPECT_LT(features.back().bucket, kFeatureCount);
  EXPECT_TRUE(extract_features(" \n").empty());
}

TEST(Shape, SeesThatLabelsRepeat) {
  const auto facts = [](const std::string& text) {
    const auto list = describe_shape(text, take_excerpt(text));
    return std::set<std::string>(list.begin(), list.end());
  };
  std::string shots;
  for (int i = 0; i < 8; ++i) shots += fmt::format("Q: what is {}?\nA: it is {}\n\n", i, i * i);
  EXPECT_TRUE(facts(shots + "Q: what is 9?\nA:").contains("last label seen before: 6-12 times"));
  EXPECT_TRUE(facts(story() + "\n\nQ: what is 9?\nA:").contains("last label seen before: never"));
}

// --- The built-in weights on hard cases

struct HardCase {
  const char* name;
  std::string text;
  Task task;
};

std::vector<HardCase> hard_cases() {
  const auto source = read_file(WINDOWKV_DATA_DIR "/../src/classify/excerpt.cpp");
  std::string faq;
  for (int i = 0; i < 40; ++i)
    faq += fmt::format("Question: How do I replace part {}?\nAnswer: Open lid {} and pull.\n\n", i, i + 1);
  std::string shots;
  for (int i = 0; i < 8; ++i)
    shots += fmt::format("Passage:\n{}\nQuestion:\nWho came in?\nAnswer:\nHolmes\n\n",
                         story().substr(static_cast<size_t>(i) * 600, 700));
  const auto& text = story();
  return {
      {"a question about code", "What is the default value of bytes?\n\n" + source, kLocal},
      {"a question about code, last", source + "\nWhich function finds the length of a chat mark?", kLocal},
      {"code to continue", "Continue this code:\n\n" + source, kAggregate},
      {"a summary of questions", "Summarize the following document.\n\n" + faq, kAggregate},
      {"a summary of questions, asked last", faq + "\nWrite a summary of the document above.", kAggregate},
      {"the instruction at the start only", "Who wrote the letter?\n\n" + text, kLocal},
      {"the instruction at the end only", text + "\n\nWho wrote the letter?", kLocal},
      {"a summary at the start only", "Give a short summary of this text.\n\n" + text, kAggregate},
      {"a summary at the end only", text + "\n\nGive a short summary of this text.", kAggregate},
      {"few-shot question answering",
       "Answer the questions from the passages, as in the examples.\n\n" + shots + "Passage:\n" +
           text.substr(0, 800) + "\nQuestion:\nWho left?\nAnswer:\n",
       kAggregate},
      {"one question over one passage", "Passage:\n" + text + "\nQuestion:\nWho left?\nAnswer:\n", kLocal},
      {"Chinese question", text + "\n\n问题：谁写了这封信？\n回答：", kLocal},
      {"Chinese summary", "请总结下面的文章。\n\n" + text, kAggregate},
      {"German question", text + "\n\nFrage: Wer hat den Brief geschrieben?\nAntwort:", kLocal},
      {"German summary", "Bitte fasse den folgenden Text zusammen.\n\n" + text, kAggregate},
      {"French question", "En quelle année Holmes est-il né ?\n\n" + text, kLocal},
      {"French summary", text + "\n\nRésume le texte ci-dessus.", kAggregate},
      {"Spanish question", text + "\n\n¿Quién escribió la carta?", kLocal},
      {"Spanish summary", "Haz un resumen del texto.\n\n" + text, kAggregate},
      {"Russian summary", text + "\n\nНапиши краткое содержание текста.", kAggregate},
      {"Japanese summary", "次の文章を要約してください。\n\n" + text, kAggregate},
  };
}

TEST(BuiltinClassifier, TellsHardCases) {
  for (const auto& c : hard_cases()) EXPECT_EQ(told(c.text), c.task) << c.name;
}

TEST(BuiltinClassifier, DoesNotMindTheChatTemplate) {
  for (const auto& c : hard_cases()) {
    const auto marked = "<|im_start|>user\n" + c.text + "<|im_end|>\n<|im_start|>assistant\n";
    const auto& classifier = TaskClassifier::builtin();
    EXPECT_NEAR(classifier.aggregation_probability(marked), classifier.aggregation_probability(c.text), 0.2)
        << c.name;
    EXPECT_EQ(told(marked), c.task) << c.name;
  }
}

TEST(BuiltinClassifier, HasNoOpinionOnNothing) {
  for (const char* text : {"", " \n\t "}) {
    const auto decision = decide_task(TaskClassifier::builtin(), text);
    EXPECT_EQ(decision.source, DecisionSource::kNeutral);
    EXPECT_EQ(decision.task, kNeutralTask);
    EXPECT_EQ(decision.probability, 0);
    EXPECT_EQ(describe(decision), "default: no text");
  }
}

TEST(BuiltinClassifier, ReadsOneMegabyteByItsEnds) {
  std::string text = "Who paid for the boat?\n\n";
  while (text.size() < (1u << 20)) text += story();
  text += "\n\nWho paid for the boat?";
  EXPECT_EQ(told(text), kLocal);
  auto other = text;
  std::fill(other.begin() + 500000, other.begin() + 501000, '#');
  const auto& classifier = TaskClassifier::builtin();
  EXPECT_EQ(classifier.aggregation_probability(other), classifier.aggregation_probability(text));
}

TEST(BuiltinClassifier, TakesBinaryJunk) {
  uint32_t state = 1;
  for (const size_t size : {1u, 2u, 3u, 1023u, 1024u, 1025u, 2048u, 100000u}) {
    std::string junk(size, '\0');
    for (auto& c : junk) c = static_cast<char>((state = state * 1664525u + 1013904223u) >> 24);
    const double p = TaskClassifier::builtin().aggregation_probability(junk);
    EXPECT_TRUE(p >= 0 && p <= 1) << size;
  }
}

TEST(BuiltinClassifier, SaysWhy) {
  const auto reasons =
      TaskClassifier::builtin().reasons("Give a short summary of this text.\n\n" + story(), 100000);
  ASSERT_GT(reasons.size(), 100u);
  for (size_t i = 1; i < reasons.size(); ++i)
    EXPECT_GE(std::abs(reasons[i - 1].weight), std::abs(reasons[i].weight));
  EXPECT_TRUE(std::any_of(reasons.begin(), reasons.end(),
                          [](const TaskReason& r) { return r.weight > 0 && r.text == "\"summary\""; }));
}

TEST(Decisions, AreNeutralUnderTheThreshold) {
  class Fixed : public TaskClassifier {
   public:
    explicit Fixed(double p) : p_(p) {}
    std::string_view name() const override { return "fixed"; }
    double aggregation_probability(std::string_view) const override { return p_; }

   private:
    double p_;
  };
  const auto decide = [](double p, double threshold) { return decide_task(Fixed(p), "text", threshold); };
  EXPECT_EQ(decide(0.9, 0.6).task, kAggregate);
  EXPECT_EQ(decide(0.9, 0.6).source, DecisionSource::kClassifier);
  EXPECT_DOUBLE_EQ(decide(0.1, 0.6).probability, 0.9);
  EXPECT_EQ(decide(0.1, 0.6).task, kLocal);
  EXPECT_EQ(decide(0.59, 0.6).source, DecisionSource::kNeutral);
  EXPECT_EQ(decide(0.59, 0.6).task, kNeutralTask);
  EXPECT_EQ(decide(0.59, 0.5).task, kAggregate);
  EXPECT_EQ(describe(decide(0.9, 0.6)), "classifier, p = 0.90");
}

TEST(TaskChoices, TakeTheRowOrTheTextOrOneTask) {
  const std::string question = "Who wrote the letter?\n\n" + story();
  EXPECT_EQ(TaskChoice::parse("given")(kAggregate, question).task, kAggregate);
  EXPECT_EQ(TaskChoice::parse("auto")(kAggregate, question).task, kLocal);
  EXPECT_EQ(TaskChoice::parse("aggregation")(kLocal, question).task, kAggregate);
  EXPECT_EQ(TaskChoice::parse("aggregation")(kLocal, question).source, DecisionSource::kGiven);
  EXPECT_THROW(TaskChoice::parse("guess"), Error);
}

// --- Training

std::vector<TaskRow> toy_rows() {
  std::vector<TaskRow> rows;
  for (int i = 0; i < 24; ++i) {
    const auto context = story().substr(static_cast<size_t>(i) * 160, 2000);
    for (int source = 0; source < 3; ++source) {
      rows.push_back(
          {fmt::format("Find entry {}.\n\n{}", source, context), kLocal, fmt::format("toy/find{}", source)});
      rows.push_back({fmt::format("Shorten text {}.\n\n{}", source, context), kAggregate,
                      fmt::format("toy/shorten{}", source)});
    }
  }
  return rows;
}

TEST(Training, LearnsAndRepeatsItselfToTheByte) {
  const auto rows = toy_rows();
  const auto model = train_task_model(rows);
  EXPECT_EQ(model.to_bytes(), train_task_model(rows).to_bytes());
  for (const auto& row : rows)
    EXPECT_EQ(model.logit(extract_features(row.text)) > 0, row.task == kAggregate) << row.text.substr(0, 40);
  EXPECT_GT(
      model.logit(extract_features("Shorten text 7.\n\nUp and to the office, where we sat all morning.")), 0);
  TrainOptions other;
  other.seed = 2;
  EXPECT_NE(model.to_bytes(), train_task_model(rows, other).to_bytes());
}

TEST(Training, NeedsBothTasks) {
  auto rows = toy_rows();
  std::erase_if(rows, [](const TaskRow& r) { return r.task == kLocal; });
  EXPECT_THROW(train_task_model(rows), Error);
  TrainOptions options;
  options.cancelled = [] { return true; };
  EXPECT_THROW(train_task_model(toy_rows(), options), Cancelled);
}

TEST(Training, CalibrationFindsTheRateOfErrors) {
  // One row in four has the other label: the honest probability is 0.75 for every row.
  const auto rows = toy_rows();
  auto model = train_task_model(rows);
  auto noisy = rows;
  for (size_t i = 0; i < noisy.size(); ++i)
    if (i % 8 < 2) noisy[i].task = noisy[i].task == kLocal ? kAggregate : kLocal;
  calibrate(model, noisy);
  double confidence = 0;
  for (const auto& row : noisy) {
    const double p = sigmoid(model.logit(extract_features(row.text)));
    confidence += std::max(p, 1 - p) / static_cast<double>(noisy.size());
  }
  EXPECT_NEAR(confidence, 0.75, 0.03);
}

TEST(Training, WeightsSurviveTheirFile) {
  const auto model = train_task_model(toy_rows());
  const auto bytes = model.to_bytes();
  const auto features = extract_features(story());
  EXPECT_EQ(LinearTaskModel::from_bytes(bytes, "x").logit(features), model.logit(features));
  const auto path = write_bytes("toy.task", {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  EXPECT_EQ(TaskClassifier::load(path)->aggregation_probability(story()), sigmoid(model.logit(features)));
  const std::vector<std::string> labels = {"localization", "aggregation"};
  EXPECT_THROW(TaskClassifier::load(path, labels), Error);
  EXPECT_THROW(LinearTaskModel::from_bytes(bytes.substr(0, bytes.size() - 1), "x"), Error);
  EXPECT_THROW(LinearTaskModel::from_bytes("none", "x"), Error);
  auto infinite = bytes;
  infinite.replace(16, 4, "\x00\x00\x80\x7f", 4);
  EXPECT_THROW(LinearTaskModel::from_bytes(infinite, "x"), Error);
}

TEST(TaskRows, AreReadOrRefusedByLine) {
  const auto load = [](const std::string& content) {
    const std::vector<std::string> paths = {
        write_bytes("rows.jsonl", {reinterpret_cast<const uint8_t*>(content.data()), content.size()})};
    return load_task_rows(paths);
  };
  const auto rows = load(
      "{\"text\": \"a\", \"label\": \"aggregation\", \"source\": \"x/y\"}\n\n"
      "{\"text\": \"b\", \"label\": \"localization\"}");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].task, kAggregate);
  EXPECT_EQ(source_family(rows[0].source), "x");
  EXPECT_EQ(rows[1].source, "unknown");
  for (const char* bad : {"{", "[]", "{\"text\": 1, \"label\": \"aggregation\"}", "{\"text\": \"a\"}",
                          "{\"text\": \"a\", \"label\": \"other\"}"})
    EXPECT_THROW(load(bad), Error) << bad;
}

TEST(TaskPhrasings, BecomePrompts) {
  const auto rows = rows_of_phrasings(phrasings_path(), toy_rows(), 3);
  EXPECT_GT(rows.size(), 1500u);
  size_t aggregation = 0;
  for (const auto& row : rows) {
    aggregation += row.task == kAggregate ? 1 : 0;
    for (const char* slot :
         {"{context}", "{question}", "{query}", "{name}", "{name2}", "{number}", "{quote}", "{passage}"})
      EXPECT_EQ(row.text.find(slot), std::string::npos) << row.text;
  }
  EXPECT_GT(aggregation, rows.size() / 4);
  EXPECT_LT(aggregation, rows.size() * 3 / 4);
  const auto again = rows_of_phrasings(phrasings_path(), toy_rows(), 3);
  EXPECT_EQ(rows.back().text, again.back().text);
}

/// Words of a text in lower case; marks part them.
std::vector<std::string> plain_words(std::string_view text) {
  std::vector<std::string> out;
  for (const auto& word : split_excerpt(text))
    if (word.kind == Word::Kind::kWord || word.kind == Word::Kind::kNumber) out.push_back(word.text);
  return out;
}

TEST(TaskPhrasings, HaveNothingOfLongBenchsWording) {
  // LongBench is a test set: no run of 5 words of its prompts may be trained on.
  const auto runs = [](const std::vector<std::string>& words, std::set<std::string>& into) {
    for (size_t i = 0; i + 5 <= words.size(); ++i)
      into.insert(
          fmt::format("{} {} {} {} {}", words[i], words[i + 1], words[i + 2], words[i + 3], words[i + 4]));
  };
  std::set<std::string> theirs;
  for (const auto& dataset : longbench_datasets()) runs(plain_words(dataset.prompt), theirs);
  ASSERT_TRUE(theirs.contains("write a one page summary"));
  std::istringstream lines(read_file(phrasings_path()));
  for (std::string line; std::getline(lines, line);) {
    std::set<std::string> ours;
    runs(plain_words(line), ours);
    for (const auto& run : ours) EXPECT_FALSE(theirs.contains(run)) << line;
  }
}

// --- Figures

TEST(TaskScoresTest, AreTheTextbooksOwn) {
  // Truth and prediction: 3 of 4 localization right, 1 of 2 aggregation right.
  const std::vector<TaskOutcome> outcomes = {{kLocal, 0.1, "a/1"},     {kLocal, 0.1, "a/1"},
                                             {kLocal, 0.3, "b/1"},     {kLocal, 0.9, "b/2"},
                                             {kAggregate, 0.9, "b/2"}, {kAggregate, 0.3, "b/2"}};
  const auto s = score_tasks(outcomes);
  EXPECT_NEAR(s.accuracy(), 4.0 / 6, 1e-12);
  EXPECT_NEAR(s.localization.recall, 3.0 / 4, 1e-12);
  EXPECT_NEAR(s.localization.precision, 3.0 / 4, 1e-12);
  EXPECT_NEAR(s.localization.f1, 3.0 / 4, 1e-12);
  EXPECT_NEAR(s.aggregation.recall, 1.0 / 2, 1e-12);
  EXPECT_NEAR(s.aggregation.f1, 1.0 / 2, 1e-12);
  ASSERT_EQ(s.bins.size(), 2u);
  EXPECT_EQ(s.bins[0].rows, 2u);  // 0.7: one of two right
  EXPECT_NEAR(s.bins[0].accuracy, 0.5, 1e-12);
  EXPECT_NEAR(s.bins[1].accuracy, 0.75, 1e-12);
  EXPECT_NEAR(s.calibration_error, 2.0 / 6 * 0.2 + 4.0 / 6 * 0.15, 1e-9);
  const auto families = score_by_source(outcomes, true);
  ASSERT_EQ(families.size(), 2u);
  EXPECT_EQ(families[0].first, "a");
  EXPECT_EQ(families[0].second.right, 2u);
  EXPECT_EQ(score_by_source(outcomes, false).size(), 3u);
  EXPECT_EQ(score_tasks({}).accuracy(), 0);
}

}  // namespace
}  // namespace windowkv::test
