// Needle in a haystack: prompts of the length and depth asked for, scores, and the command from end to end.
#include "eval/niah.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "eval/paraphrase_needles.h"
#include "support/file.h"
#include "support/files.h"
#include "support/models.h"
#include "windowkv/error.h"

namespace windowkv::eval {
namespace {

using test::data_text;
using test::minilong_path;
using test::temp_path;

size_t count(std::string_view text, std::string_view what) {
  size_t n = 0;
  for (auto at = text.find(what); at != std::string_view::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

std::string with_needle(const std::string& text, double depth) {
  auto out = text;
  return out.insert(needle_place(text, depth), 1, '|');
}

TEST(NeedlePlace, IsTheNearestEndOfASentence) {
  const std::string text = "One one one. Two two two two? Three.";
  EXPECT_EQ(with_needle(text, 0), "|One one one. Two two two two? Three.");
  EXPECT_EQ(with_needle(text, 10), "|One one one. Two two two two? Three.");
  EXPECT_EQ(with_needle(text, 30), "One one one.| Two two two two? Three.");
  EXPECT_EQ(with_needle(text, 55), "One one one.| Two two two two? Three.");
  EXPECT_EQ(with_needle(text, 60), "One one one. Two two two two?| Three.");
  EXPECT_EQ(with_needle(text, 100), "One one one. Two two two two? Three.|");
}

TEST(NeedlePlace, KnowsQuotesTitlesAndParagraphs) {
  EXPECT_EQ(with_needle("He said “It rains.” Then Mr. Holmes and J. Watson left on foot", 50),
            "He said “It rains.”| Then Mr. Holmes and J. Watson left on foot");
  EXPECT_EQ(with_needle("A heading\n\nSome words", 50), "A heading|\n\nSome words");
  EXPECT_EQ(with_needle("pi is 3.14159 or so, they say", 40), "|pi is 3.14159 or so, they say");
  EXPECT_EQ(with_needle("他来了。她走了。", 50), "他来了。|她走了。");
  EXPECT_EQ(with_needle("他说「来了。」她走了。", 60), "他说「来了。」|她走了。");
  EXPECT_EQ(with_needle("", 50), "|");
}

NiahCell scored(const std::string& generated, const std::string& expected, bool chat = true) {
  const NiahPrompt prompt{.needle = {"", "", expected}};
  return niah_cell(niah_sample(prompt, {512, 50, 0}, chat, 64), generated);
}

TEST(NeedleScores, AreRouge1AndContainment) {
  const Needle needle;
  EXPECT_NEAR(scored(needle.answer, needle.answer).rouge1, 100, 1e-9);
  EXPECT_EQ(scored("", needle.answer).rouge1, 0);
  // 2 words of 4 in the answer, of 2 expected: p 1/2, r 1.
  EXPECT_NEAR(scored("go and eat mint", "eat mint").rouge1, 100 * 2.0 / 3, 1e-9);
  EXPECT_TRUE(needle_found("You should EAT a\nsandwich.", "eat a sandwich"));
  EXPECT_FALSE(needle_found("eat the sandwich", "eat a sandwich"));
}

TEST(NeedleScores, CountOnlyTheFirstLineWithoutATemplate) {
  const std::string generated = "\nmint \nQuestion: and the salt?";
  const auto plain = scored(generated, "mint", /*chat=*/false);
  EXPECT_EQ(plain.answer, "mint");
  EXPECT_NEAR(plain.rouge1, 100, 1e-9);
  EXPECT_TRUE(plain.exact);
  // 1 word of 5, of 1 expected.
  EXPECT_NEAR(scored(generated, "mint").rouge1, 100 * 2.0 / 6, 1e-9);
  EXPECT_FALSE(scored("parsley\nmint", "mint", false).exact);
}

TEST(NeedleSets, HoldTheirAnswersAndVary) {
  const auto haystack = data_text("sherlock.txt");
  const auto minilong = needle_set("minilong");
  std::set<std::string> sentences, forms;
  for (int64_t length : {512, 1024})
    for (double depth : {0.0, 12.5, 100.0})
      for (uint64_t seed = 0; seed < 20; ++seed) {
        const auto needle = minilong({length, depth, seed});
        EXPECT_EQ(minilong({length, depth, seed}).sentence, needle.sentence);
        EXPECT_EQ(count(needle.sentence, needle.answer), 1u) << needle.sentence;
        EXPECT_EQ(count(needle.question, needle.answer), 0u) << needle.question;
        EXPECT_EQ(count(haystack, needle.sentence), 0u);
        EXPECT_TRUE(needle.sentence.ends_with('.') && needle.question.ends_with('?'));
        sentences.insert(needle.sentence);
        forms.insert(needle.question.substr(0, 11));
      }
  EXPECT_GE(sentences.size(), 110u);  // of 120
  EXPECT_GE(forms.size(), 4u);
  EXPECT_EQ(needle_set("san-francisco")({512, 0, 3}).sentence, Needle().sentence);
  EXPECT_THROW(needle_set("other"), Error);
}

/// A crude stem: a long word without the endings of plurals, verbs and doers, cut to what its relatives
/// share.
std::string stem(std::string word) {
  constexpr std::array kEndings = {"ings", "ing", "ies", "ied", "ers", "est", "ed",
                                   "er",   "es",  "ly",  "s",   "e",   "y"};
  for (const std::string ending : kEndings)
    if (word.size() >= ending.size() + 3 && word.ends_with(ending)) {
      word.resize(word.size() - ending.size());
      break;
    }
  const auto n = word.size();  // running, run
  if (n > 3 && word[n - 1] == word[n - 2]) word.pop_back();
  return word;
}

/// The stems of a text's words, without the stop words.
std::set<std::string> content_stems(std::string_view text) {
  static const std::set<std::string> kStopWords = {
      "a",   "an",   "and",  "as",   "at",    "by",    "did",  "do",    "does", "each", "every",
      "for", "from", "has",  "have", "her",   "him",   "his",  "in",    "into", "is",   "it",
      "of",  "off",  "on",   "only", "our",   "out",   "over", "s",     "that", "the",  "their",
      "to",  "was",  "what", "when", "where", "which", "who",  "whose", "with"};
  std::set<std::string> stems;
  std::string word;
  for (const char c : std::string(text) + ' ') {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || byte >= 0x80)
      word += static_cast<char>(byte < 0x80 ? std::tolower(byte) : byte);
    else if (!word.empty()) {
      if (!kStopWords.contains(word)) stems.insert(stem(word));
      word.clear();
    }
  }
  return stems;
}

TEST(ParaphraseNeedles, ShareNoContentWordWithTheirQuestions) {
  // The stems do what they are for.
  EXPECT_EQ(content_stems("The bakers baked"), content_stems("A baker bakes"));
  EXPECT_EQ(stem("feeding"), stem("feeds"));
  EXPECT_EQ(stem("traded"), stem("trade"));
  EXPECT_EQ(stem("ponies"), stem("pony"));

  const auto pairs = paraphrase_pairs();
  EXPECT_EQ(pairs.size(), 40u);
  const auto haystack = data_text("sherlock.txt");
  std::set<std::string> answers, sentences;
  for (const auto& pair : pairs) {
    SCOPED_TRACE(pair.sentence);
    std::vector<std::string> shared;
    const auto told = content_stems(pair.sentence), asked = content_stems(pair.question);
    std::set_intersection(told.begin(), told.end(), asked.begin(), asked.end(), std::back_inserter(shared));
    EXPECT_TRUE(shared.empty()) << fmt::format("{}", fmt::join(shared, " "));
    EXPECT_EQ(count(pair.sentence, pair.answer), 1u);
    EXPECT_LE(count(pair.answer, " "), 1u);
    EXPECT_EQ(count(haystack, pair.sentence), 0u);
    answers.insert(pair.answer);
    sentences.insert(pair.sentence);
  }
  EXPECT_EQ(answers.size(), pairs.size());
  EXPECT_EQ(sentences.size(), pairs.size());
}

TEST(ParaphraseNeedles, AreOtherOnesForEachPromptOfACell) {
  const auto source = needle_set("paraphrase");
  for (int64_t length : {1024, 4096}) {
    std::set<std::string> drawn;
    for (uint64_t seed = 7; seed < 47; ++seed) {
      const auto needle = source({length, 50, seed});
      EXPECT_EQ(source({length, 50, seed}).question, needle.question);
      drawn.insert(needle.sentence);
    }
    EXPECT_EQ(drawn.size(), 40u);
  }
  std::set<std::string> over_depths;
  for (int depth = 0; depth <= 100; depth += 10)
    over_depths.insert(source({1024, static_cast<double>(depth), 0}).sentence);
  EXPECT_GE(over_depths.size(), 6u);  // of 11
}

/// Two lengths, two depths and two seeds.
NiahGrid small_grid() {
  return {.lengths = {100, 200}, .depths = {0, 50}, .seeds = {0, 1}};
}

/// Its cells: number p has ROUGE-1 10·p and is exact where p is odd.
std::vector<std::optional<NiahCell>> small_cells() {
  std::vector<std::optional<NiahCell>> cells;
  for (int p = 0; p < 8; ++p) {
    NiahCell cell;
    cell.rouge1 = 10.0 * p;
    cell.exact = p % 2 == 1;
    cell.kept_share = 0.1;
    cell.kept_bytes = 1000 + p;
    cells.emplace_back(cell);
  }
  return cells;
}

TEST(NiahSummary, IsMeansAndIntervals) {
  const std::vector<Contender> contenders(2, {.name = "snapkv 12%", .kv = "snapkv", .budget = "12%"});
  auto holes = small_cells();
  holes[0].reset();
  holes[4].reset();  // both seeds of length 100, depth 0
  const auto summaries = summarize_niah(small_grid(), contenders, {small_cells(), holes});
  const auto& s = summaries.at(0);
  // points(): seeds outside, then lengths, then depths; cell [depth][length] has points p and p + 4.
  EXPECT_EQ(s.rouge1, (std::vector<std::vector<double>>{{20, 40}, {30, 50}}));
  EXPECT_EQ(s.by_length, (std::vector<double>{25, 45}));
  const auto expected = bootstrap_mean(std::vector<double>{0, 10, 20, 30, 40, 50, 60, 70});
  EXPECT_DOUBLE_EQ(s.overall.mean, 35);
  EXPECT_DOUBLE_EQ(s.overall.low, expected.low);
  EXPECT_DOUBLE_EQ(s.overall.high, expected.high);
  EXPECT_DOUBLE_EQ(s.exact.mean, 50);
  EXPECT_DOUBLE_EQ(s.kept_share, 0.1);
  EXPECT_DOUBLE_EQ(s.kept_bytes, 1003.5);
  EXPECT_EQ(s.budget, "12%");

  const auto& h = summaries.at(1);
  EXPECT_TRUE(std::isnan(h.rouge1[0][0]));
  EXPECT_DOUBLE_EQ(h.rouge1[1][0], 30);
  EXPECT_DOUBLE_EQ(h.by_length[0], 30);                // of points 1 and 5
  EXPECT_DOUBLE_EQ(h.overall.mean, (280.0 - 40) / 6);  // less points 0 and 4
}

class Prompts : public testing::Test {
 protected:
  std::unique_ptr<Model> model_ = Model::load(minilong_path("q8_0"), {.weights = false});
  std::string haystack_ = data_text("sherlock.txt");
};

TEST_F(Prompts, HaveTheLengthAskedForAndTheNeedleOnce) {
  for (bool chat : {true, false}) {
    const NiahPrompts prompts(model_->vocab(), haystack_, one_needle({}), chat);
    for (int64_t length : {80, 333, 1000, 2048})
      for (double depth : {0.0, 37.5, 50.0, 100.0})
        for (uint64_t seed : {0, 1, 2}) {
          SCOPED_TRACE(fmt::format("chat {} length {} depth {} seed {}", chat, length, depth, seed));
          const auto prompt = prompts.make({length, depth, seed});
          const auto n = static_cast<int64_t>(prompt.tokens.size());
          EXPECT_LE(n, length);
          EXPECT_GE(n, length - 12);
          EXPECT_EQ(count(prompt.text, Needle().sentence), 1u);
          EXPECT_EQ(count(prompt.text, "Question: " + Needle().question), 1u);
          EXPECT_EQ(model_->vocab().tokenize(prompt.text), prompt.tokens);
        }
  }
}

TEST_F(Prompts, HaveTheNeedleAtTheDepthAskedFor) {
  const NiahPrompts prompts(model_->vocab(), haystack_, one_needle({}), /*chat=*/false);
  const std::string question = "\n\nQuestion: What is the best thing to do in San Francisco?\nAnswer:";
  const auto first = prompts.make({1000, 0, 0});
  EXPECT_TRUE(first.text.starts_with(Needle().sentence + " "));
  EXPECT_LE(first.needle_position, 1);  // BOS, where the vocabulary has one
  const auto last = prompts.make({1000, 100, 0});
  EXPECT_TRUE(last.text.ends_with(" " + Needle().sentence + question));
  for (double depth : {20.0, 50.0, 80.0}) {
    const auto prompt = prompts.make({2000, depth, 0});
    // The text of the novel takes about 1,940 tokens; its sentences seldom more than 100.
    EXPECT_NEAR(static_cast<double>(prompt.needle_position), 19.4 * depth, 60) << depth;
    const auto at = prompt.text.find(Needle().sentence);
    const auto before = prompt.text.substr(0, at - 1);
    EXPECT_TRUE(std::string(".!?\"\x9d\x99").find(before.back()) != std::string::npos) << before;
  }
}

TEST_F(Prompts, DifferBySeedAndRepeatByIt) {
  const NiahPrompts prompts(model_->vocab(), haystack_, one_needle({}), true);
  std::set<std::string> texts;
  for (uint64_t seed : {0, 1, 2, 3}) {
    texts.insert(prompts.make({300, 50, seed}).text);
    EXPECT_EQ(prompts.make({300, 50, seed}).tokens, prompts.make({300, 50, seed}).tokens);
  }
  EXPECT_EQ(texts.size(), 4u);
}

TEST_F(Prompts, TakeAShortHaystackAgain) {
  const NiahPrompts prompts(model_->vocab(), "The rain fell. The wind blew.\n", one_needle({}), true);
  const auto prompt = prompts.make({500, 50, 0});
  EXPECT_GE(prompt.tokens.size(), 490u);
  EXPECT_GE(count(prompt.text, "The rain fell."), 10u);
  EXPECT_EQ(count(prompt.text, Needle().sentence), 1u);
}

TEST_F(Prompts, RefuseWhatCannotWork) {
  const auto& vocab = model_->vocab();
  auto make = [&](const std::string& haystack, const Needle& needle, int64_t length) {
    return NiahPrompts(vocab, haystack, one_needle(needle), true).make({length, 50, 0});
  };
  EXPECT_EQ(make("Text.", {}, 200).needle.sentence, Needle().sentence);
  EXPECT_THROW(make(" \n", {}, 200), Error);
  EXPECT_THROW(make("Text. " + Needle().sentence, {}, 200), Error);
  EXPECT_THROW(make("Text.", {.question = ""}, 200), Error);
  EXPECT_THROW(make(haystack_, {}, 20), Error);
}

// The command

struct Ran {
  int code = 0;
  std::string out, err;
};

Ran run_command(const std::string& arguments) {
  const auto out = temp_path("niah.out"), err = temp_path("niah.err");
  const int status =
      std::system(fmt::format("'{}' {} >'{}' 2>'{}'", WINDOWKV_COMMAND, arguments, out, err).c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(out), read_file(err)};
}

std::string write(const std::string& name, const std::string& text) {
  const auto path = temp_path(name);
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

std::string grid_arguments() {
  return fmt::format(
      "niah -t 1 -m '{}' --haystack '{}' -l 300,600 --depths 2 --needle 'The best thing to do in Lisbon is "
      "fly a kite "
      "in the old town at dusk.' --question 'What is the best thing to do in Lisbon?' --answer 'fly a kite "
      "in the "
      "old town at dusk'",
      minilong_path("q8_0"), write("haystack.txt", data_text("sherlock.txt")));
}

TEST(Command, WritesEverythingAndGoesOnWhereItStopped) {
  const auto log = temp_path("niah.jsonl"), json = temp_path("niah.json");
  const auto arguments = fmt::format("{} --out '{}' --json '{}'", grid_arguments(), log, json);
  const auto first = run_command(arguments);
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_NE(first.out.find("\nfull "), std::string::npos);
  EXPECT_NE(first.out.find("\nwindowkv 12% "), std::string::npos);
  const auto rows = read_file(log);
  EXPECT_EQ(count(rows, "\n"), 8u);
  // Every row says what was expected; those that found it also say it in their answer.
  EXPECT_EQ(8 + count(rows, "\"exact\":true,"), count(rows, "fly a kite in the old town at dusk"));
  EXPECT_GE(count(rows, "\"exact\":true,"), 3u);  // at least the full cache finds it
  const auto report = read_file(json);
  EXPECT_EQ(count(report, "FNV-1a 64"), 2u);  // the model's and the haystack's
  EXPECT_NE(report.find("--depths 2"), std::string::npos);

  // Everything known: the same again, and nothing added.
  const auto second = run_command(arguments);
  EXPECT_EQ(second.out, first.out);
  EXPECT_EQ(read_file(log), rows);
  EXPECT_EQ(read_file(json), report);

  // Killed in the middle of the fifth line.
  size_t cut = 0;
  for (int i = 0; i < 4; ++i) cut = rows.find('\n', cut) + 1;
  std::filesystem::resize_file(log, cut + 20);
  const auto third = run_command(arguments);
  EXPECT_EQ(third.out, first.out) << third.err;
  EXPECT_EQ(count(read_file(log), "\n"), 8u);
  EXPECT_EQ(read_file(log).substr(0, cut), rows.substr(0, cut));
  EXPECT_EQ(read_file(json), report);

  // Another answer expected: other results, beside the old ones.
  EXPECT_EQ(run_command(arguments + " --predict 8").code, 0);
  EXPECT_EQ(count(read_file(log), "\n"), 16u);
}

TEST(Command, ComparesPoliciesAtSeveralBudgets) {
  const auto json = temp_path("grid.json"), markdown = temp_path("grid.md");
  const auto ran = run_command(fmt::format(
      "niah -t 1 -m '{}' --haystack '{}' -l 300,512 --depths 0,100 --needle-set minilong --samples 2 --seed "
      "3 "
      "--predict 24 --policies full,windowkv,snapkv -b 12%,50% --json '{}' --markdown '{}'",
      minilong_path("q8_0"), write("haystack.txt", data_text("sherlock.txt")), json, markdown));
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto report = nlohmann::json::parse(read_file(json));
  EXPECT_EQ(report["lengths"], nlohmann::json({300, 512}));
  EXPECT_EQ(report["seeds"], nlohmann::json({3, 4}));
  std::vector<std::string> names;
  for (const auto& c : report["contenders"]) {
    names.push_back(c["policy"]);
    EXPECT_LE(c["rouge1"]["low"], c["rouge1"]["mean"]);
    EXPECT_LE(c["rouge1"]["mean"], c["rouge1"]["high"]);
    EXPECT_GT(c["kept_bytes"], 0);
    double sum = 0;
    for (const auto& row : c["rouge1_by_depth_and_length"])
      for (double value : row) sum += value;
    EXPECT_NEAR(sum / 4, c["rouge1"]["mean"], 1e-9);
  }
  EXPECT_EQ(names,
            (std::vector<std::string>{"full", "windowkv 12%", "windowkv 50%", "snapkv 12%", "snapkv 50%"}));
  EXPECT_GE(report["contenders"][0]["exact"]["mean"], 75);  // MiniLong finds nine in ten at this length
  EXPECT_EQ(count(read_file(markdown), "\n"), 7u);
}

TEST(Command, RefusesInOneLine) {
  const auto markdown = temp_path("refused.md");
  auto refuses = [&](const std::string& arguments, const std::string& expected) {
    const auto ran = run_command(fmt::format("{} {} --markdown '{}'", grid_arguments(), arguments, markdown));
    EXPECT_TRUE(ran.code == 1 || ran.code == 2) << arguments << ": " << ran.code;
    EXPECT_EQ(ran.out, "");
    // Some of the flags are in grid_arguments() too, which a note says.
    EXPECT_EQ(count(ran.err, "\n"), 1u + count(ran.err, "windowkv: note: ")) << ran.err;
    EXPECT_NE(ran.err.find(expected), std::string::npos) << ran.err;
    EXPECT_FALSE(std::filesystem::exists(markdown));
  };
  for (const char* depths : {"0", "102", "1.5", "-1,5", "0,101", "x", "1,,2", "nan,1", "\"\""})
    refuses(fmt::format("--depths={}", depths), "--depths");
  refuses("--policies nonsense", "nonsense");
  refuses("--budgets 0%", "0%");
  refuses("-l 40", "too short");
  refuses("-l 1q", "--lengths");
  refuses("--needle-set other", "unknown needle set \"other\"");
  refuses("--needle-set minilong", "omit --needle");
  refuses("--json /nowhere/x.json", "/nowhere/x.json");
  refuses("--out /nowhere/x.jsonl", "/nowhere/x.jsonl: cannot write");
  const auto no_needle = run_command(fmt::format("niah -m '{}' --haystack '{}' --needle ''",
                                                 minilong_path("q8_0"), write("some.txt", "Some text.")));
  EXPECT_NE(no_needle.err.find("must not be empty"), std::string::npos) << no_needle.err;
  const auto no_haystack =
      run_command(fmt::format("niah -m '{}' --haystack /nowhere", minilong_path("q8_0")));
  EXPECT_EQ(no_haystack.code, 1);
  EXPECT_NE(no_haystack.err.find("/nowhere: cannot read"), std::string::npos);
}

}  // namespace
}  // namespace windowkv::eval
