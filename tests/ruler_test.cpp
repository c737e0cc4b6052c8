// RULER's tasks: prompts as github.com/NVIDIA/RULER makes them, of the length asked for, and its scores.
#include "eval/ruler.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numbers>
#include <regex>
#include <set>

#include "eval/longbench.h"
#include "eval/ruler/drafts.h"
#include "eval/ruler/fit.h"
#include "support/files.h"
#include "support/models.h"
#include "windowkv/error.h"

namespace windowkv::eval::ruler {
namespace {

using test::data_text;
using test::minilong_path;
using test::temp_path;

std::string write(const std::string& name, const std::string& text) {
  return test::write_bytes(name, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

/// Error's text of a call that must throw it.
template <typename F>
std::string error_of(F&& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "(none)";
}

size_t count(std::string_view text, std::string_view what) {
  size_t n = 0;
  for (auto at = text.find(what); at != std::string_view::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

std::vector<std::string> split(std::string_view text, char mark) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == mark)
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

/// What is between two texts that must be there, the first `before` and the last `after`.
std::string between(const std::string& text, const std::string& before, const std::string& after) {
  const auto start = text.find(before), end = text.rfind(after);
  EXPECT_NE(start, std::string::npos) << before;
  EXPECT_NE(end, std::string::npos) << after;
  if (start == std::string::npos || end == std::string::npos || end < start + before.size()) return "";
  return text.substr(start + before.size(), end - start - before.size());
}

/// A source whose tokens are the words between spaces and line breaks.
Source small_source(const std::string& essay = "One two three. Four five? Six seven eight nine. Ten.") {
  Source source{.essay = make_essay(essay)};
  source.count_tokens = [](std::string_view text) {
    return static_cast<int64_t>(std::count_if(text.begin(), text.end(), [](char c) { return c <= ' '; })) + 1;
  };
  return source;
}

Text text_of(const Source& source, std::string_view task, int64_t units, int64_t length = 4096,
             int64_t index = 0, uint64_t seed = 42) {
  return find_task(task).draft({source, task, length, seed, index}).text(units);
}

// Tasks

TEST(Tasks, AreThoseOfRuler) {
  // Names: scripts/synthetic.yaml. Answer tokens: scripts/data/synthetic/constants.py. The match of qa is
  // string_match_part, of all others string_match_all: scripts/eval/synthetic/constants.py.
  const std::vector<std::pair<std::string, int64_t>> expected = {{"niah_single_1", 128},
                                                                 {"niah_single_2", 128},
                                                                 {"niah_single_3", 128},
                                                                 {"niah_multikey_1", 128},
                                                                 {"niah_multikey_2", 128},
                                                                 {"niah_multikey_3", 128},
                                                                 {"niah_multivalue", 128},
                                                                 {"niah_multiquery", 128},
                                                                 {"vt", 30},
                                                                 {"cwe", 120},
                                                                 {"fwe", 50},
                                                                 {"qa_1", 32},
                                                                 {"qa_2", 32}};
  ASSERT_EQ(tasks().size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(tasks()[i].name, expected[i].first);
    EXPECT_EQ(tasks()[i].tokens_to_generate, expected[i].second) << expected[i].first;
    EXPECT_EQ(tasks()[i].match == Match::kPart, tasks()[i].name.starts_with("qa_"));
    EXPECT_EQ(&find_task(expected[i].first), &tasks()[i]);
  }
  EXPECT_NE(error_of([] { find_task("niah"); }).find("unknown task \"niah\"; use niah_single_1, "),
            std::string::npos);
}

TEST(Words, AreManyAndPlain) {
  std::set<std::string> all;
  for (const auto* list : {&nouns(), &adjectives(), &verbs()}) {
    EXPECT_EQ(std::set<std::string>(list->begin(), list->end()).size(), list->size());
    all.insert(list->begin(), list->end());
  }
  EXPECT_GE(nouns().size() * adjectives().size(), 400'000u);  // keys of needles
  EXPECT_GE(all.size(), 1'500u);                              // words of cwe
  for (const auto& word : all) EXPECT_TRUE(std::regex_match(word, std::regex("[a-z]{2,12}"))) << word;
}

TEST(Essays, KnowWordsSentencesAndLexicon) {
  const auto essay = make_essay("“The rain,” said\n\nMr. Brown,\tdoesn’t stop. It rains; the\r\nend!");
  EXPECT_EQ(essay.words, (std::vector<std::string>{"“The", "rain,”", "said", "Mr.", "Brown,", "doesn’t",
                                                   "stop.", "It", "rains;", "the", "end!"}));
  EXPECT_EQ(essay.ends_sentence,
            (std::vector<bool>{false, false, false, false, false, false, true, false, false, false, true}));
  EXPECT_EQ(essay.lexicon, (std::vector<std::string>{"end", "rain", "rains", "said", "stop", "the"}));
  EXPECT_THROW(make_essay(" \n"), Error);
}

// Prompts: what is fixed in them is written out from RULER's templates (constants.py), with the changes that
// niah.py makes for a single answer ("Some" → "A", "are all" → "is", "are" → "is", "numbers" → "number").

TEST(Needles, OneInTheNoise) {
  const auto source = small_source();
  const auto text = text_of(source, "niah_single_1", 1);
  ASSERT_EQ(text.outputs.size(), 1u);
  const auto& value = text.outputs[0];
  EXPECT_TRUE(std::regex_match(value, std::regex("[1-9][0-9]{6}"))) << value;
  const auto key = between(text.input, "One of the special magic numbers for ", " is: ");
  EXPECT_TRUE(std::regex_match(key, std::regex("[a-z]+-[a-z]+"))) << key;
  EXPECT_EQ(
      text.input,
      "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz "
      "you about the number afterwards.\n"
      "One of the special magic numbers for " +
          key + " is: " + value +
          ".\n"
          "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
          "What is the special magic number for " +
          key + " mentioned in the provided text?");
  EXPECT_EQ(text.answer_prefix,
            " The special magic number for " + key + " mentioned in the provided text is");
}

TEST(Needles, FourAskedForInTheEssay) {
  const auto source = small_source();
  const auto text = text_of(source, "niah_multiquery", 10);
  const std::string open =
      "Some special magic numbers are hidden within the following text. Make sure to memorize it. I will "
      "quiz "
      "you about the numbers afterwards.\n";
  const std::string question = "\nWhat are all the special magic numbers for ";
  ASSERT_TRUE(text.input.starts_with(open));
  const auto keys = between(text.input, question, " mentioned in the provided text?");
  EXPECT_TRUE(text.input.ends_with(question + keys + " mentioned in the provided text?"));
  EXPECT_TRUE(std::regex_match(keys, std::regex("\\S+, \\S+, \\S+, and \\S+"))) << keys;
  EXPECT_EQ(text.answer_prefix,
            " The special magic numbers for " + keys + " mentioned in the provided text are");
  // Each key's needle carries the answer of the same place; the essay stays behind without the needles.
  ASSERT_EQ(text.outputs.size(), 4u);
  auto context = between(text.input, open, question);
  const auto names = split(std::regex_replace(keys, std::regex(",( and)?"), ""), ' ');
  for (size_t i = 0; i < 4; ++i) {
    const auto needle =
        fmt::format("One of the special magic numbers for {} is: {}.", names[i], text.outputs[i]);
    ASSERT_EQ(count(context, needle), 1u) << needle;
    context.replace(context.find(needle), needle.size(), "|");
  }
  EXPECT_EQ(std::regex_replace(std::regex_replace(context, std::regex("\\|"), " "), std::regex(" +"), " "),
            (context[0] == ' ' ? " " : "") +
                std::string("One two three. Four five? Six seven eight nine. Ten.") +
                (context.back() == ' ' ? " " : ""));
  // Needles stand between sentences only.
  for (auto at = context.find('|'); at != std::string::npos; at = context.find('|', at + 1)) {
    const auto before = context.find_last_not_of(" |", at);
    EXPECT_TRUE(before == std::string::npos || context[before] == '.' || context[before] == '?') << context;
  }
}

TEST(Needles, StandAtRulersDepths) {
  // 100 sentences, each a word: the sentences before a needle are int(100 · depth / 100) for one of the
  // depths np.round(np.linspace(0, 100, 40)), which niah.py calls DEPTHS.
  std::string essay;
  for (int i = 0; i < 100; ++i) essay += fmt::format("S{:02}. ", i);
  const auto source = small_source(essay);
  std::set<int> depths, seen;
  for (int i = 0; i < 40; ++i) depths.insert(static_cast<int>(std::lround(100.0 * i / 39)));
  for (int64_t index = 0; index < 200; ++index) {
    const auto text = text_of(source, "niah_single_2", 100, 4096, index);
    const auto context = between(text.input, "afterwards.\n", "\nWhat is");
    const auto before = context.substr(0, context.find("One of the special"));
    const auto depth = static_cast<int>(count(before, "."));
    EXPECT_EQ(count(context, "One of the special magic numbers for "), 1u);
    // int(100 · (d / 100)) is d − 1 for some d: floating point, as in Python (29, 57 and 58).
    EXPECT_TRUE(depths.contains(depth) || depths.contains(depth + 1)) << depth;
    seen.insert(depth);
  }
  EXPECT_GE(seen.size(), 38u);
  EXPECT_TRUE(seen.contains(0));
  EXPECT_TRUE(seen.contains(100));
}

TEST(Needles, TakeAShortEssayAgain) {
  const auto source = small_source("Rain fell. Wind blew.");
  const auto text = text_of(source, "niah_single_2", 11);
  auto context = between(text.input, "afterwards.\n", "\nWhat is");
  context = std::regex_replace(context, std::regex(" ?One of the [^:]*: [0-9]+\\. ?"), " ");
  EXPECT_EQ(std::regex_replace(context, std::regex("^ | $"), ""),
            "Rain fell. Wind blew. Rain fell. Wind blew. Rain fell. Wind");
}

TEST(Needles, AreAsManyAsTheTaskSays) {
  const std::string uuid = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";  // RFC 4122
  struct Expected {
    std::string task;
    size_t needles, outputs;
    std::string kind, key, value;
  };
  const std::string word = "[a-z]+-[a-z]+", number = "[0-9]{7}";
  // scripts/synthetic.yaml; a haystack of needles has `units` beside the one that is asked for.
  const std::vector<Expected> expected = {{"niah_single_1", 1, 1, "numbers", word, number},
                                          {"niah_single_2", 1, 1, "numbers", word, number},
                                          {"niah_single_3", 1, 1, "uuids", word, uuid},
                                          {"niah_multikey_1", 4, 1, "numbers", word, number},
                                          {"niah_multikey_2", 51, 1, "numbers", word, number},
                                          {"niah_multikey_3", 51, 1, "uuids", uuid, uuid},
                                          {"niah_multivalue", 4, 4, "numbers", word, number},
                                          {"niah_multiquery", 4, 4, "numbers", word, number}};
  const auto source = small_source();
  for (const auto& e : expected)
    for (int64_t index = 0; index < 5; ++index) {
      SCOPED_TRACE(e.task);
      const auto text = text_of(source, e.task, 50, 4096, index);
      const std::regex pattern(
          fmt::format("One of the special magic {} for ({}) is: ({})\\.", e.kind, e.key, e.value));
      std::map<std::string, std::vector<std::string>> values;
      for (std::sregex_iterator it(text.input.begin(), text.input.end(), pattern), end; it != end; ++it)
        values[(*it)[1]].push_back((*it)[2]);
      size_t needles = 0;
      for (const auto& [key, of_key] : values) needles += of_key.size();
      EXPECT_EQ(needles, e.needles);
      EXPECT_EQ(count(text.input, "special magic " + e.kind + " for"), e.needles + (e.outputs > 1 ? 1 : 0));
      ASSERT_EQ(text.outputs.size(), e.outputs);
      // The answers are the values of the keys asked for, and of no other.
      std::multiset<std::string> of_asked;
      const auto asked = between(text.input, "the provided text", "?") + text.answer_prefix;
      for (const auto& [key, of_key] : values)
        if (count(text.answer_prefix, key) > 0) of_asked.insert(of_key.begin(), of_key.end());
      EXPECT_EQ(std::multiset<std::string>(text.outputs.begin(), text.outputs.end()), of_asked) << asked;
    }
}

// niah.py and variable_tracking.py.
constexpr const char* kNoiseLine =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

TEST(VariableTracking, ChainsNamesInOrderAfterAnExample) {
  const auto source = small_source();
  for (int64_t index = 0; index < 20; ++index) {
    const auto text = text_of(source, "vt", 8, 4096, index);
    ASSERT_EQ(text.outputs.size(), 5u);
    const std::string open =
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n";
    ASSERT_EQ(count(text.input, open), 2u);
    const auto start = text.input.rfind(open);
    const auto value =
        between(text.input, "Find all variables that are assigned the value ", " in the text above.")
            .substr(0, 5);
    std::smatch asked;
    ASSERT_TRUE(std::regex_search(text.answer_prefix, asked, std::regex("the value ([0-9]{5}),")));
    EXPECT_EQ(text.answer_prefix,
              " Answer: According to the chain(s) of variable assignment in the text above, 5 variables are "
              "assigned the value " +
                  asked[1].str() + ", they are: ");
    // The question itself: 8 lines of noise and 5 assignments, those in order.
    const auto lines = split(text.input.substr(start + open.size()), '\n');
    ASSERT_EQ(lines.size(), 8u + 5u + 1u);
    EXPECT_EQ(lines.back(), "Question: Find all variables that are assigned the value " + asked[1].str() +
                                " in the text above.");
    const auto& n = text.outputs;
    std::vector<std::string> assignments = {"VAR " + n[0] + " = " + asked[1].str()};
    for (size_t i = 1; i < 5; ++i) assignments.push_back("VAR " + n[i] + " = VAR " + n[i - 1] + " ");
    std::vector<std::string> found;
    for (const auto& line : lines) {
      if (line.starts_with("VAR ")) {
        found.push_back(line);
      } else if (&line != &lines.back()) {
        EXPECT_EQ(line, kNoiseLine);
      }
    }
    EXPECT_EQ(found, assignments);
    for (const auto& name : n) EXPECT_TRUE(std::regex_match(name, std::regex("[A-Z]{5}")));
    EXPECT_EQ(std::set<std::string>(n.begin(), n.end()).size(), 5u);
    // The example: names of three letters, at most 500 tokens with its question, the answer after two spaces.
    const auto example = text.input.substr(0, start);
    std::smatch solved;
    ASSERT_TRUE(std::regex_search(example, solved,
                                  std::regex("5 variables are assigned the value ([0-9]{5}), they are:  "
                                             "([A-Z]{3}) ([A-Z]{3}) ([A-Z]{3}) ([A-Z]{3}) ([A-Z]{3})\n\n$")));
    EXPECT_EQ(value, solved[1].str());
    EXPECT_NE(example.find("VAR " + solved[2].str() + " = " + solved[1].str() + "\n"), std::string::npos);
    EXPECT_NE(example.find("VAR " + solved[6].str() + " = VAR " + solved[5].str() + " \n"),
              std::string::npos);
    const auto question = example.substr(0, example.rfind(" " + solved[2].str()));
    EXPECT_LE(source.count_tokens(question), 500);
    EXPECT_GE(source.count_tokens(question), 500 - 20);
  }
}

/// Words of a numbered list, "1. a 2. b", by how often they are in it.
std::map<std::string, int> frequencies(const std::string& list) {
  std::map<std::string, int> by_word;
  const auto parts = split(list, ' ');
  for (size_t i = 0; i + 1 < parts.size(); i += 2) {
    EXPECT_EQ(parts[i], fmt::format("{}.", i / 2 + 1));
    ++by_word[parts[i + 1]];
  }
  return by_word;
}

void expect_common(const std::map<std::string, int>& words, std::span<const std::string> common, size_t total,
                   int often, int seldom) {
  EXPECT_EQ(words.size(), total);
  for (const auto& [word, n] : words)
    EXPECT_EQ(n, std::find(common.begin(), common.end(), word) != common.end() ? often : seldom) << word;
}

TEST(CommonWords, OccurAsOftenAsRulerSays) {
  const auto source = small_source();
  const std::string open =
      "Below is a numbered list of words. In these words, some appear more often than others. Memorize the "
      "ones that appear most often.\n";
  const std::string question = "\nQuestion: What are the 10 most common words in the above list?";
  const std::string prefix = " Answer: The top 10 words that appear most often in the list are:";
  struct Expected {
    int64_t length;
    size_t example_words;
    int example_often, example_seldom, often, seldom;
  };
  // common_words_extraction.py: (20, 3, 1) and (n, 6, 1) below 4096 tokens, else (40, 10, 3) and
  // synthetic.yaml's freq_cw 30, freq_ucw 3.
  for (const auto& e : {Expected{4095, 20, 3, 1, 6, 1}, Expected{4096, 40, 10, 3, 30, 3}}) {
    SCOPED_TRACE(e.length);
    const auto text = text_of(source, "cwe", 50, e.length);
    EXPECT_EQ(text.answer_prefix, prefix);
    ASSERT_EQ(text.outputs.size(), 10u);
    const auto second = text.input.rfind(open);
    ASSERT_EQ(text.input.find(open), 0u);
    ASSERT_GT(second, 0u);
    const auto own = text.input.substr(second);
    ASSERT_TRUE(own.ends_with(question));
    expect_common(frequencies(between(own, open, question)), text.outputs, 50, e.often, e.seldom);
    const auto example = text.input.substr(0, second);
    const auto middle = question + prefix + " ";
    const auto answer = split(example.substr(example.find(middle) + middle.size()), ' ');
    ASSERT_EQ(answer.size(), 20u);
    ASSERT_TRUE(example.ends_with("\n"));
    std::vector<std::string> common;
    for (size_t i = 0; i < 10; ++i) {
      EXPECT_EQ(answer[2 * i], fmt::format("{}.", i + 1));
      common.push_back(i == 9 ? answer[19].substr(0, answer[19].size() - 1) : answer[2 * i + 1]);
    }
    expect_common(frequencies(between(example, open, middle)), common, e.example_words, e.example_often,
                  e.example_seldom);
  }
}

TEST(CommonWords, GoOverToTheEssaysWords) {
  const auto source = small_source("an unlisted gobbledygook of quixotic words and Names");
  std::set<std::string> listed;
  for (const auto* list : {&nouns(), &adjectives(), &verbs()}) listed.insert(list->begin(), list->end());
  const auto draft = find_task("cwe").draft({source, "cwe", 4096, 1, 0});
  EXPECT_EQ(draft.max_units, static_cast<int64_t>(listed.size()) + 5);  // unlisted ... words, and
  const auto all = draft.text(draft.max_units).input;
  EXPECT_EQ(count(all, " gobbledygook"), 3u);
  EXPECT_EQ(count(all, "Names"), 0u);
  EXPECT_EQ(count(draft.text(draft.max_units - 5).input, " gobbledygook"), 0u);
}

TEST(FrequentWords, FollowZipf) {
  const auto source = small_source();
  const int64_t units = 700;
  const auto text = text_of(source, "fwe", units, 2050);
  EXPECT_EQ(text.answer_prefix,
            " Answer: According to the coded text above, the three most frequently appeared words are:");
  const auto context = between(
      text.input,
      "Read the following coded text and track the frequency of each coded word. Find the three most "
      "frequently "
      "appeared coded words. ",
      "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most "
      "frequently appeared words in the above coded text?");
  std::map<std::string, int> by_word;
  for (const auto& word : split(context, ' ')) ++by_word[word];
  // freq_words_extraction.py: a vocabulary of (2050 − 50) // 50 words, the word of rank k int(n k^−2 / ζ(2))
  // times. ζ(2) = π²/6 = 1.6449: 425, 106, 47, 26 ...
  const int expected[] = {425, 106, 47, 26};
  EXPECT_EQ(by_word["..."], expected[0]);
  ASSERT_EQ(text.outputs.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(by_word[text.outputs[i]], expected[i + 1]);
    EXPECT_TRUE(std::regex_match(text.outputs[i], std::regex("[a-z]{6}")));
  }
  size_t different = 0;
  while (different < 40 &&
         static_cast<int>(units / std::pow(different + 1.0, 2) * 6 / std::numbers::pi / std::numbers::pi) > 0)
    ++different;
  EXPECT_EQ(by_word.size(), different);
  EXPECT_THROW(text_of(source, "fwe", 53, 249), Error);
}

TEST(FrequentWords, AreNeverEquallyFrequent) {
  const auto source = small_source();
  const auto draft = find_task("fwe").draft({source, "fwe", 600, 1, 0});
  for (int64_t units = draft.min_units; units < 2000; units += 1 + units / 40) {
    const auto text = draft.text(units);
    std::map<std::string, int> by_word;
    for (const auto& word : split(between(text.input, "appeared coded words. ", "\nQuestion"), ' '))
      ++by_word[word];
    int third = by_word[text.outputs[2]];
    for (const auto& [word, n] : by_word)
      if (std::find(text.outputs.begin(), text.outputs.end(), word) == text.outputs.end() && word != "...") {
        EXPECT_LT(n, third) << units;
      }
  }
}

// Questions

const char* const kSquad = R"({"version": "v2.0", "data": [
  {"title": "Colours", "paragraphs": [
    {"context": "Roses are red.", "qas": [
      {"question": "Which colour has a rose?", "id": "1", "answers": [{"text": "red", "answer_start": 10},
        {"text": "Red.", "answer_start": 10}], "is_impossible": false},
      {"question": "How tall is a rose?", "id": "2", "answers": [], "is_impossible": true}]},
    {"context": "Grass is green.", "qas": [
      {"question": "What is green?", "id": "3", "answers": [{"text": "Grass", "answer_start": 0}]}]}]},
  {"title": "Sizes", "paragraphs": [{"context": "An ant is small.", "qas": []}]}]})";

const char* const kHotpotqa = R"([
  {"_id": "a", "question": "Who?", "answer": "Ann", "type": "bridge", "supporting_facts": [["B", 0]],
   "context": [["B", ["Ann ran.", " She won."]], ["A", ["No one."]]]},
  {"_id": "b", "question": "Where?", "answer": "Rome", "context": [["C", ["In Rome."]], ["A", ["No one."]]]}])";

TEST(QaFiles, AreReadAsRulerReadsThem) {
  // qa.py: documents sorted, each once; impossible questions left out; more_context the article's others.
  const auto squad = read_squad(write("squad.json", kSquad));
  EXPECT_EQ(squad.documents,
            (std::vector<std::string>{"An ant is small.", "Grass is green.", "Roses are red."}));
  ASSERT_EQ(squad.questions.size(), 2u);
  EXPECT_EQ(squad.questions[0].query, "Which colour has a rose?");
  EXPECT_EQ(squad.questions[0].answers, (std::vector<std::string>{"red", "Red."}));
  EXPECT_EQ(squad.questions[0].documents, std::vector<size_t>{2});
  EXPECT_EQ(squad.questions[0].related, std::vector<size_t>{1});
  EXPECT_EQ(squad.questions[1].query, "What is green?");
  const auto hotpotqa = read_hotpotqa(write("hotpotqa.json", kHotpotqa));
  EXPECT_EQ(hotpotqa.documents,
            (std::vector<std::string>{"A\nNo one.", "B\nAnn ran. She won.", "C\nIn Rome."}));
  ASSERT_EQ(hotpotqa.questions.size(), 2u);
  EXPECT_EQ(hotpotqa.questions[1].answers, std::vector<std::string>{"Rome"});
  EXPECT_EQ(hotpotqa.questions[1].documents, (std::vector<size_t>{2, 0}));
  EXPECT_EQ(hotpotqa.questions[1].related, std::vector<size_t>{});
}

TEST(QaFiles, ThatAreBrokenAreRefusedWithThePlace) {
  auto squad = [](const std::string& text) { return error_of([&] { read_squad(write("bad.json", text)); }); };
  auto hotpotqa = [](const std::string& text) {
    return error_of([&] { read_hotpotqa(write("bad.json", text)); });
  };
  auto has = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
    EXPECT_NE(text.find("bad.json: "), std::string::npos) << text;
  };
  has(squad("{\"data\": ["), "not JSON");
  has(squad(""), "not JSON");
  has(squad(kHotpotqa), "the whole is not an object");
  has(squad("{}"), "the whole has no \"data\"");
  has(squad(R"({"data": 3})"), "data is not a list");
  has(squad(R"({"data": [{"paragraphs": [{"context": 1}]}]})"),
      "data[0].paragraphs[0].context is not a string");
  has(squad(R"({"data": [{"paragraphs": [{"context": "x", "qas": [{"question": "q", "answers": []}]}]}]})"),
      "data[0].paragraphs[0].qas[0] has no answers");
  has(squad(R"({"data": []})"), "it has no questions");
  has(hotpotqa(kSquad), "the whole is not a list");
  has(hotpotqa("[]"), "it has no questions");
  has(hotpotqa(R"([{"question": "q", "answer": "a"}])"), "[0] has no \"context\"");
  has(hotpotqa(R"([{"question": "q", "context": []}])"), "[0] has no \"answer\"");
  has(hotpotqa(R"([{"context": [["title"]], "question": "q", "answer": "a"}])"),
      "[0].context[0] is not a title");
  has(hotpotqa(R"([{"context": [["t", "text"]], "question": "q", "answer": "a"}])"),
      "[0].context[0][1] is not a list");
  EXPECT_NE(error_of([] { read_squad("/nowhere.json"); }).find("/nowhere.json"), std::string::npos);
}

TEST(Qa, PutsTheDocumentAmongOthers) {
  auto source = small_source();
  source.squad = read_squad(write("squad.json", kSquad));
  source.hotpotqa = read_hotpotqa(write("hotpotqa.json", kHotpotqa));
  const std::string instruction =
      "Answer the question based on the given documents. Only give me the answer and do not output any other "
      "words.";
  const auto one = text_of(source, "qa_1", 1);
  EXPECT_EQ(one.input, instruction +
                           "\n\nThe following are given documents.\n\nDocument 1:\nRoses are red.\n\n" +
                           instruction + "\n\nQuestion: Which colour has a rose?");
  EXPECT_EQ(one.answer_prefix, " Answer:");
  EXPECT_EQ(one.outputs, (std::vector<std::string>{"red", "Red."}));
  // The article's other paragraph before those of other articles.
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const auto two = text_of(source, "qa_1", 2, 4096, 0, seed).input;
    EXPECT_EQ(count(two, "Roses are red."), 1u);
    EXPECT_EQ(count(two, "Grass is green."), 1u);
  }
  // More than there are: all of them again, in order of the file's documents.
  const auto five = text_of(source, "qa_1", 5).input;
  EXPECT_EQ(count(five, "\n\nDocument "), 5u);
  EXPECT_EQ(count(five, "Document 5:\n"), 1u);
  EXPECT_EQ(count(five, "An ant is small."), 2u);
  EXPECT_EQ(count(five, "Grass is green."), 2u);
  EXPECT_EQ(count(five, "Roses are red."), 1u);
  // HotpotQA's documents come all, or not at all.
  const auto draft = find_task("qa_2").draft({source, "qa_2", 4096, 42, 1});
  EXPECT_EQ(draft.min_units, 2);
  const auto hotpot = draft.text(2);
  EXPECT_EQ(count(hotpot.input, "C\nIn Rome."), 1u);
  EXPECT_EQ(count(hotpot.input, "A\nNo one."), 1u);
  EXPECT_NE(hotpot.input.find("\n\nQuestion: Where?"), std::string::npos);
  EXPECT_NE(error_of([&] { text_of(source, "qa_2", 2, 4096, 2); }).find("only 2 questions"),
            std::string::npos);
}

// Size

TEST(LargestFitting, IsWhatABruteSearchFinds) {
  auto random = Random("costs");
  for (int round = 0; round < 300; ++round) {
    std::vector<int64_t> costs = {random.between(0, 50)};
    const auto size = random.between(1, 3000);
    const auto step = random.between(1, 60);
    while (static_cast<int64_t>(costs.size()) < size)
      costs.push_back(costs.back() + (random.below(9) == 0 ? random.between(0, 20 * step) : random.below(2)));
    const auto low = random.between(0, size - 1), limit = random.between(0, costs.back() + 10);
    int64_t calls = 0;
    const auto found = largest_fitting(low, size - 1, limit, [&](int64_t n) {
      ++calls;
      EXPECT_TRUE(n >= low && n < size) << n;
      return costs.at(static_cast<size_t>(n));
    });
    std::optional<int64_t> expected;
    for (auto n = low; n < size && costs[static_cast<size_t>(n)] <= limit; ++n) expected = n;
    EXPECT_EQ(found, expected);
    EXPECT_LE(calls, 40);
  }
}

class Prompts : public testing::Test {
 protected:
  Source source() {
    Source s{.essay = make_essay(data_text("sherlock.txt"))};
    s.squad = read_squad(write("squad.json", kSquad));
    s.hotpotqa = read_hotpotqa(write("hotpotqa.json", kHotpotqa));
    return s;
  }
  std::unique_ptr<Model> model_ = Model::load(minilong_path("q8_0"), {.weights = false});
};

TEST_F(Prompts, FillTheLengthToTheLastUnit) {
  const auto& vocab = model_->vocab();
  for (bool chat : {true, false}) {
    const Samples samples(vocab, source(), chat, 42);
    const auto form = chat ? chat_form(vocab) : PromptForm{};
    for (const auto& task : tasks())
      for (int64_t length : {1100, 2048, 5000})
        for (int64_t index : {0, 1}) {
          SCOPED_TRACE(fmt::format("{} {} {} {}", task.name, length, index, chat ? "chat" : "raw"));
          const auto sample = samples.make({&task, length, index});
          auto prompt = [&](const Text& text) {
            return form.before + text.input + form.after + text.answer_prefix;
          };
          EXPECT_EQ(sample.tokens, vocab.tokenize(prompt(sample.text)));
          EXPECT_LE(static_cast<int64_t>(sample.tokens.size()) + task.tokens_to_generate, length);
          const auto larger =
              task.draft({samples.source(), task.name, length, 42, index}).text(sample.units + 1);
          EXPECT_GT(static_cast<int64_t>(vocab.tokenize(prompt(larger)).size()) + task.tokens_to_generate,
                    length);
          // Raw prompts and answers are RULER's length.
          const auto total = static_cast<int64_t>(sample.tokens.size()) + task.tokens_to_generate;
          if (chat)
            EXPECT_LT(sample.length, total);
          else
            EXPECT_EQ(sample.length, total);
          const auto& asked = sample.text.input;
          if (task.data == nullptr) {
            for (const auto& output : sample.text.outputs) EXPECT_NE(asked.find(output), std::string::npos);
          }
        }
  }
}

TEST_F(Prompts, RepeatBySeedAndDifferOtherwise) {
  const Samples first(model_->vocab(), source(), true, 1), again(model_->vocab(), source(), true, 1),
      other(model_->vocab(), source(), true, 2);
  for (const auto& task : tasks()) {
    if (task.data != nullptr) continue;
    SCOPED_TRACE(task.name);
    const auto sample = first.make({&task, 1500, 0});
    EXPECT_EQ(sample.tokens, again.make({&task, 1500, 0}).tokens);
    EXPECT_NE(sample.text.outputs, first.make({&task, 1500, 1}).text.outputs);
    EXPECT_NE(sample.text.outputs, other.make({&task, 1500, 0}).text.outputs);
    if (task.name != "fwe") {  // whose vocabulary grows with the length
      EXPECT_EQ(sample.text.outputs, first.make({&task, 1600, 0}).text.outputs);
    }
  }
}

TEST_F(Prompts, ThatDoNotFitAreRefused) {
  const Samples samples(model_->vocab(), source(), true, 1);
  auto refusal = [&](const char* task, int64_t length, int64_t index = 0) {
    return error_of([&] { samples.make({&find_task(task), length, index}); });
  };
  EXPECT_TRUE(
      std::regex_match(refusal("cwe", 256), std::regex("cwe at 256 tokens: too short; it needs [0-9]+")));
  EXPECT_TRUE(refusal("niah_single_1", 100).starts_with("niah_single_1 at 100 tokens: too short"));
  EXPECT_TRUE(refusal("fwe", 1).starts_with("fwe at 1 tokens: "));
  EXPECT_TRUE(refusal("qa_1", 1000, 2).starts_with("qa_1 at 1000 tokens: the file has only 2 questions"));
  EXPECT_NE(refusal("cwe", 1 << 17).find("give a longer --haystack"), std::string::npos);
}

TEST_F(Prompts, AreRulersRows) {
  const Samples samples(model_->vocab(), source(), true, 1);
  const Point point{&find_task("niah_single_2"), 600, 3};
  const auto sample = samples.make(point);
  const auto row = to_json(point, sample);
  EXPECT_EQ(row.at("task"), "niah_single_2");
  EXPECT_EQ(row.at("max_seq_length"), 600);
  EXPECT_EQ(row.at("index"), 3);
  EXPECT_EQ(row.at("input"), sample.text.input);
  EXPECT_EQ(row.at("outputs"), sample.text.outputs);
  EXPECT_EQ(row.at("answer_prefix"), sample.text.answer_prefix);
  EXPECT_EQ(row.at("length"), sample.length);
  EXPECT_EQ(row.at("length_w_model_temp"), sample.tokens.size() + 128);
}

TEST_F(Prompts, AreTheSameFromTheFilesOfRows) {
  const auto form = chat_form(model_->vocab());
  const Samples samples(model_->vocab(), source(), true, 1);
  std::string rows, templated;
  std::vector<std::vector<Token>> expected;
  for (const auto& task : tasks()) {
    const Point point{&task, 1500, 1};
    const auto sample = samples.make(point);
    auto row = to_json(point, sample);
    expected.push_back(sample.tokens);
    rows += row.dump() + "\n";
    // As RULER's own files have them.
    row["input"] = form.before + sample.text.input;
    row["answer_prefix"] = form.after + sample.text.answer_prefix;
    templated += row.dump() + "\n";
  }
  for (const auto& text : {rows, templated}) {
    const auto loaded = load_samples(std::vector{write("samples.jsonl", text)});
    ASSERT_EQ(loaded.samples.size(), tasks().size());
    for (size_t i = 0; i < expected.size(); ++i) {
      SCOPED_TRACE(tasks()[i].name);
      EXPECT_EQ(sample_tokens(*model_, loaded.samples[i]), expected[i]);
      EXPECT_EQ(sample_generation(model_->vocab(), loaded.samples[i]).max_tokens,
                tasks()[i].tokens_to_generate);
    }
  }
}

TEST_F(Prompts, RunUnderTheTaskOfTheirKindUnlessToldOtherwise) {
  const auto model = test::load(minilong_path("q8_0"));
  Engine engine(*model);
  const Samples samples(model->vocab(), source(), true, 1);
  const std::vector<Point> points = {{&find_task("niah_single_2"), 600, 0}, {&find_task("fwe"), 600, 0}};
  std::vector<Task> asked;
  Contender contender{.name = "full", .kv = "full", .budget = "100%", .make = {}};
  contender.make = [&](Task task) {
    asked.push_back(task);
    return test::full_policy();
  };
  const auto tasks_under = [&](const char* choice) {
    asked.clear();
    RunOptions options;
    options.task = TaskChoice::parse(choice);
    run(engine, *model, samples, points, {&contender, 1}, options);
    return asked;
  };
  EXPECT_EQ(tasks_under("given"), (std::vector<Task>{Task::kLocalization, Task::kAggregation}));
  EXPECT_EQ(tasks_under("aggregation"), (std::vector<Task>{Task::kAggregation, Task::kAggregation}));
  std::vector<Task> told;
  for (const auto& point : points)
    told.push_back(decide_task(TaskClassifier::builtin(), samples.make(point).text.input).task);
  EXPECT_EQ(tasks_under("auto"), told);
  contender.task = "localization";  // its own goes before the run's
  EXPECT_EQ(tasks_under("given"), (std::vector<Task>{Task::kLocalization, Task::kLocalization}));
}

// Scores

TEST(Scores, AreRulers) {
  struct Pair {
    Match match;
    std::string answer;
    std::vector<std::string> outputs;
    double score;
  };
  // Worked by hand from string_match_all and string_match_part: `r.lower() in pred.lower()` over the
  // references r; the share of those found, or whether any is.
  const std::vector<Pair> pairs = {
      {Match::kAll, "1234567.", {"1234567"}, 100},
      {Match::kAll, "12345678", {"1234567"}, 100},  // containment, not words
      {Match::kAll, "1234568", {"1234567"}, 0},
      {Match::kAll, "", {"1234567"}, 0},
      {Match::kAll, "a, b and D", {"a", "b", "c", "d"}, 100 * 3.0 / 4},
      {Match::kAll, "1. Apple 2. PEAR", {"apple", "pear", "plum"}, 100 * 2.0 / 3},
      {Match::kAll, "AAAAA BBBBB", {"AAAAA", "BBBBB"}, 100},
      {Match::kAll, "abc", {"", "x"}, 50},  // the empty text is in every text
      {Match::kAll, "same", {"same", "same"}, 100},
      {Match::kPart, "In Rome, I think", {"rome", "Roma"}, 100},
      {Match::kPart, "Paris", {"Rome", "Roma"}, 0},
      {Match::kPart, "both Rome and Roma", {"Rome", "Roma"}, 100},
      {Match::kPart, "ÉCOLE", {"école"}, 100},
      {Match::kPart, "", {"x"}, 0},
  };
  for (const auto& p : pairs)
    EXPECT_NEAR(score(p.match, p.answer, p.outputs), p.score, 1e-9)
        << p.answer << fmt::format(" {}", p.outputs);
}

TEST(Scores, AreOfThePostprocessedAnswer) {
  // evaluate.py: strip(), [\x00-\x1f] → "\n", strip().
  EXPECT_EQ(postprocess("  one\ttwo \n"), "one\ntwo");
  EXPECT_EQ(postprocess(std::string("\x01 a\x1f"
                                    "b\0",
                                    6)),
            "a\nb");
  EXPECT_EQ(postprocess("\u00a0\u3000é\u2003"), "é");
  EXPECT_EQ(postprocess(" \n\t"), "");
  EXPECT_EQ(postprocess(""), "");
  EXPECT_EQ(postprocess("a\xff"), "a\xff");
}

TEST(Means, AreByTaskAndLength) {
  const std::vector<const TaskInfo*> two = {&find_task("vt"), &find_task("cwe")};
  const std::vector<int64_t> lengths = {100, 200};
  const auto points = grid_points(two, lengths, 2);
  ASSERT_EQ(points.size(), 8u);
  std::vector<std::optional<Cell>> cells(8);
  for (size_t p = 0; p < 8; ++p)
    if (p != 5) cells[p] = Cell{p == 0 ? "" : "x", 10.0 * static_cast<double>(p), 0.5};
  cells[6].reset();
  cells[7].reset();
  const auto first = mean_of(points, cells, *two[0], 100);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->samples, 2);
  EXPECT_EQ(first->empty, 1);
  EXPECT_DOUBLE_EQ(first->score, 5);
  EXPECT_DOUBLE_EQ(first->kept_share, 0.5);
  EXPECT_DOUBLE_EQ(mean_of(points, cells, *two[1], 100)->score, 25);
  EXPECT_DOUBLE_EQ(mean_of(points, cells, *two[0], 200)->score, 40);
  EXPECT_FALSE(mean_of(points, cells, *two[1], 200));
}

}  // namespace
}  // namespace windowkv::eval::ruler
