// LongBench's metrics on pairs with known scores. No score here was taken from this implementation: each
// follows from the definition in LongBench's metrics.py (or the package it calls), by the arithmetic beside
// it. Beyond that, all but the Chinese pairs were computed with a transcription of those definitions in
// Python, where lower(), re, split() and difflib are the ones the official code uses.
#include "eval/metrics.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "eval/words.h"
#include "windowkv/error.h"

namespace windowkv::eval {
namespace {

struct Pair {
  const char* prediction;
  const char* reference;
  double score;
};

using Score = double (*)(std::string_view, std::string_view);

template <size_t n>
void expect_scores(Score metric, const Pair (&pairs)[n]) {
  for (const auto& p : pairs)
    EXPECT_NEAR(metric(p.prediction, p.reference), p.score, 1e-12)
        << "prediction \"" << p.prediction << "\", reference \"" << p.reference << "\"";
}

// F1 = 2·shared / (words predicted + words expected): 2pr/(p+r) with p = shared/predicted, r =
// shared/expected.
TEST(Metrics, QaF1) {
  expect_scores(
      qa_f1,
      {
          {"Paris", "paris!", 1},                                 // case and punctuation go
          {"The cat sat on the mat.", "a cat on a mat", 6. / 7},  // cat sat on mat | cat on mat: 2·3/(4+3)
          {"", "", 0},                                            // no word shared: 0 before any division
          {"", "Paris", 0},                                       // likewise
          {"Paris", "", 0},                                       // likewise
          {"the", "a", 0},                                        // articles only: no words on either side
          {"?!", "Paris", 0},                                     // punctuation only
          {"blue blue blue", "blue", 0.5},                        // counts clipped to 1: 2·1/(3+1)
          {"blue blue red", "blue red red", 2. / 3},              // 1 blue + 1 red: 2·2/(3+3)
          {"one two three four", "two four six", 4. / 7},         // 2·2/(4+3); order does not matter
          {"U.S.A.", "USA", 1},                                   // dots removed, not turned to spaces
          {"well-known fact", "well known fact", 0.4},   // wellknown fact | well known fact: 2·1/(2+3)
          {"another theme", "other theme", 0.5},         // "an", "the" inside words stay: 2·1/(2+2)
          {"the_end", "the end", 0},                     // "_" goes first: theend | end
          {"  several\t\n words ", "several words", 1},  // any whitespace parts words
      });
}

TEST(Metrics, QaF1Unicode) {
  expect_scores(
      qa_f1,
      {
          {"ÉCOLE", "école", 1},                    // lower() is Unicode's
          {"ΑΘΉΝΑ и МОСКВА", "αθήνα и москва", 1},  // Greek and Cyrillic too
          {"İstanbul", "i\u0307stanbul", 1},        // 'İ'.lower() is two code points
          {"naïve a\u00A0plan", "naïve plan", 1},   // a no-break space is whitespace to split()
          {"Zoë’s café", "zoes cafe", 0},           // ’ is not ASCII punctuation; accents stay
          {"the’ answer", "answer", 2. / 3},  // \b ends "the" before ’, which remains a word: 2·1/(2+1)
          {"an “a” b", "b", 0.5},             // “ ” b | b: 2·1/(3+1)
          {"日本 a", "日本", 1},              // an article by itself goes, whatever stands around
          {"日本a", "日本", 0},               // 日 is \w, so no \b between it and "a": one word 日本a
      });
}

// Lines of {metric, prediction, reference, score}, scored by LongBench's own metrics.py.
TEST(Metrics, UnicodeAsTheOfficialScriptHasIt) {
  std::ifstream lines(WINDOWKV_TEST_VECTORS_DIR "/metrics_unicode.jsonl");
  int pairs = 0;
  for (std::string line; std::getline(lines, line); ++pairs) {
    const auto pair = nlohmann::json::parse(line);
    const std::string reference = pair.at("reference");
    EXPECT_NEAR(best_score(parse_metric(pair.at("metric").get<std::string>()),
                           pair.at("prediction").get<std::string>(), {&reference, 1}, {}),
                pair.at("score").get<double>(), 1e-9)
        << line;
  }
  EXPECT_GE(pairs, 4);
}

// What Python's str.lower(), \d, \w and str.isspace() say.
TEST(Metrics, CharactersAsPythonHasThem) {
  EXPECT_EQ(lowercase(U"ΑΣ ΑΣ.Β ΑΣ\u0301 Σ ΣΑΣ ΣΑ"), U"ας ασ.β ας\u0301 σ σας σα");
  EXPECT_EQ(lowercase(U"İẞ\U00010400"), U"i\u0307ß\U00010428");
  for (const char32_t c : U"0٣९𝟗𞥓０") EXPECT_EQ(is_digit(c), c != U'\0');
  for (const char32_t c : U"①²½Ⅷ〇") EXPECT_EQ(is_digit(c), false);
  for (const char32_t c : U"①²½Ⅷ〇aßあ𠀀_") EXPECT_EQ(is_word(c), c != U'\0');
  for (const char32_t c : U"-”\u0301\u200D😀") EXPECT_FALSE(is_word(c));
  for (const char32_t c : U" \t\u001C\u0085\u00A0\u2028\u3000") EXPECT_EQ(is_space(c), c != U'\0');
  for (const char32_t c : U"\u200B\uFEFFx") EXPECT_FALSE(is_space(c));
}

// The units are characters here and jieba's words officially: derived from our own definition.
// 2·shared/(sum).
TEST(Metrics, QaF1Zh) {
  expect_scores(qa_f1_zh, {
                              {"北京", "北京", 1},
                              {"在北京。", "北京", 0.8},     // 在北京 | 北京: 2·2/(3+2); 。 goes
                              {"北 京！", "《北京》", 0.8},  // 北京 | 《北京: the official list lacks 《
                              {"上海", "北京", 0},           // nothing shared
                              {"", "北京", 0},               // empty
                              {"，。", "北京", 0},           // punctuation only
                              {"2023年GPT", "2023年gpt", 1},  // runs of digits and letters are one unit
                              {"12年", "123年", 0.5},         // 12 年 | 123 年: 2·1/(2+2)
                              {"的的的", "的", 0.5},          // clipped: 2·1/(3+1)
                          });
}

/// The package's F1 of precision and recall.
double f1(double p, double r) {
  return 2 * (p * r / (p + r + 1e-8));
}

// p = words in the union of common subsequences / unique words predicted, r = the same / unique words
// expected.
TEST(Metrics, RougeL) {
  expect_scores(rouge_l_f1,
                {
                    {"the cat sat", "the cat sat", f1(1, 1)},  // 0.999999995: never quite 1
                    {"", "x", 0},     // no sentence: the package throws, LongBench says 0
                    {"x", "", 0},     // likewise
                    {"...", "x", 0},  // nothing between the dots: no sentence
                    {"the cat", "the dog", f1(1. / 2, 1. / 2)},      // "the"
                    {"Hello world.", "hello world.", f1(0.5, 0.5)},  // case counts: "world"
                    {"world!", "world", 0},                          // punctuation is part of the word
                    {"a b c d", "a c b d", f1(3. / 4, 3. / 4)},      // a b d or a c d: 3 of 4
                    {"b a c", "c a b", f1(1. / 3, 1. / 3)},          // order counts: 1 of 3
                    {"a a a a", "a", f1(1, 1)},                      // unique words: {a} of {a}
                    {"a. ", "a", f1(1. / 2, 1)},  // " " is a sentence with the word "": {a, ""}
                    {"x", "x. ", f1(1, 1. / 2)},  // the same in the reference
                    {" ", " ", f1(1, 1)},         // "" of ""
                    {"a.b", "b.a", f1(1, 1)},     // sentences in any order: {a} ∪ {b}
                    // Lin's example, r = w1…w5 against c1, c2: w1 w2 ∪ w1 w3 w5 = 4 of 5 expected; predicted
                    // are 8 unique words (w1 w2 w3 w5 w6 w7 w8 w9).
                    {"w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5", f1(4. / 8, 4. / 5)},
                    // "the dog ran" whole, "cat sat" of the second: {the dog ran cat sat} of 7 predicted
                    // unique words (the cat sat on mat dog ran) and of 6 expected (the dog ran a cat sat).
                    {"the cat sat on the mat. the dog ran.", "the dog ran. a cat sat", f1(5. / 7, 5. / 6)},
                    {"new\nline\ttab", "new line tab", f1(1, 1)},          // any whitespace parts words
                    {"été à Zürich", "à Zürich été", f1(2. / 3, 2. / 3)},  // à Zürich
                });
}

// As above over characters, where jieba's words are official: derived from our own definition.
TEST(Metrics, RougeLZh) {
  expect_scores(rouge_l_zh_f1,
                {
                    {"会议讨论了预算", "会议讨论了预算", f1(1, 1)},
                    {"会议讨论预算", "会议讨论了预算", f1(1, 6. / 7)},  // 6 of 6, 6 of 7
                    {"预算会议", "会议预算", f1(2. / 4, 2. / 4)},       // 2 of 4 in order
                    {"会议。", "会议", f1(2. / 3, 1)},                  // 。 is a unit and ends no sentence
                    {"", "会议", 0},
                    {"GPT 4 很好", "GPT4很好", f1(2. / 4, 2. / 3)},  // GPT 4 很 好 | GPT4 很 好
                });
}

TEST(Metrics, Rouge1) {
  expect_scores(rouge1_f1, {
                               {"Eat a sandwich!", "eat a SANDWICH", 1},  // lower case, letters and digits
                               {"", "", 0},                               // nothing shared
                               {"sit in Dolores Park", "eat a sandwich and sit in Dolores Park", 2 * 4. / 12},
                               {"park park", "park bench", 0.5},  // clipped: 2·1/(2+2)
                               {"c b a", "a b c", 1},             // order does not matter
                               {"snake_case", "snake case", 1},   // "_" parts
                           });
}

TEST(Metrics, Classification) {
  struct Case {
    const char* prediction;
    const char* reference;
    std::vector<std::string> classes;
    double score;
  };
  const Case cases[] = {
      {"City", "City", {"City", "Country"}, 1},
      {"City or Country", "City", {"City", "Country", "State"}, 0.5},  // two named: 1/2
      {"City", "Country", {"City", "Country"}, 0},                     // the right one is not named
      {"", "City", {"City"}, 0},                                       // nothing named
      {"city", "City", {"City"}, 0},                                   // case counts
      // "something" is part of the right name, so it does not count: 1/1.
      {"Type: Number of something", "Number of something", {"Number of something", "something"}, 1},
      // "Abbreviation" is removed from the list while it is walked, so the walk steps over "expanded", which
      // stays: 1/2.
      {"Abbreviation expanded",
       "Abbreviation expanded",
       {"Abbreviation", "expanded", "Abbreviation expanded"},
       0.5},
      {"Any of a, b", "b", {"a", "b", "of", "Any"}, 0.25},  // four named
      {" spam\nQuestion", "spam", {}, 1},  // MiniLong's rows list no classes: the answer occurs
      {"ham", "spam", {}, 0},
  };
  for (const auto& c : cases)
    EXPECT_DOUBLE_EQ(classification(c.prediction, c.reference, c.classes), c.score) << c.prediction;
}

// Share of the numbers that are right.
TEST(Metrics, RetrievalAndCount) {
  expect_scores(retrieval, {
                               {"Paragraph 3", "Paragraph 3", 1},
                               {"3 or 4", "Paragraph 3", 0.5},
                               {"Paragraph 13", "Paragraph 3", 0},  // whole numbers
                               {"none", "Paragraph 3", 0},          // no number
                               {"", "Paragraph 3", 0},
                               {"Paragraph 3, yes Paragraph 3, not 5", "Paragraph 3", 2. / 3},
                               {"3.0", "Paragraph 3", 0.5},  // "3" and "0"
                           });
  expect_scores(retrieval_zh, {
                                  {"段落12", "段落12", 1},
                                  {"12和13", "段落12", 0.5},
                                  {"段落１２", "段落12", 0},          // a number to \d, but another text
                                  {"段落１２，即12", "段落12", 0.5},  // so it counts among the wrong ones
                              });
  expect_scores(count, {
                           {"There are 15 paragraphs", "15", 1},
                           {"15 15 16", "15", 2. / 3},
                           {"fifteen", "15", 0},
                           {"1 5", "15", 0},
                           {"015", "15", 0},  // compared as text
                           {"", "15", 0},
                       });
  EXPECT_THROW(retrieval("1", "the first"), Error);
  EXPECT_THROW(retrieval_zh("1", "Paragraph 1"), Error);
}

// round(100·2M/T)/100 of the first line without `, # or //; M matching characters, T characters of both.
TEST(Metrics, CodeSimilarity) {
  expect_scores(code_similarity,
                {
                    {"return x", "return x", 1},
                    {"return x", "return y", 0.88},  // 2·7/16 = 0.875, and 87.5 goes to even
                    {"\n\n# comment\nreturn x + 1\nfoo", "return x + 1", 1},  // first line that is code
                    {"```python\nx = 1", "x = 1", 1},
                    {"// only", "x", 0},  // no line left
                    {"# a\n# b", "", 1},  // fuzz.ratio of equal texts is 100, empty ones too
                    {"", "", 1},
                    {"", "x", 0},
                    {"abcd", "bcde", 0.75},          // bcd: 2·3/8
                    {"abcdefgh", "hijklmno", 0.12},  // h: 2/16 = 12.5 %, to even
                    {"tide", "diet", 0.25},          // "t" first, as the leftmost longest block: 2·1/8
                    {"diet", "tide", 0.5},           // "d", then "e": 2·2/8; not symmetric
                    {"qabxcd", "abycdf", 0.67},      // ab, cd: 2·4/12
                    {"    x", "x", 0.33},            // 2·1/6; leading blanks count
                    {"int über = 1;", "int uber = 1;", 0.92},  // 12 of 13 characters (not bytes): 24/26
                });
}

TEST(Metrics, CodeSimilarityLeavesFrequentCharactersOut) {
  // From 200 characters on, difflib starts no block at characters that make up over 1 %: here at none, and
  // the texts' first characters differ.
  std::u32string first, second;
  for (int i = 0; i < 100; ++i) first += U"ba", second += U"ab";
  EXPECT_DOUBLE_EQ(fuzz_ratio(first, second), 0);
  // Under 200 the block of 197 counts: 2·197/396 = 0.995, and 99.49 rounds to 99.
  EXPECT_DOUBLE_EQ(fuzz_ratio(first.substr(2), second.substr(2)), 0.99);
}

// By the suite's README.
TEST(Metrics, MiniLongSuite) {
  expect_scores(exact, {
                           {"48213", "48213", 1},
                           {" 48213 \nmore", "48213", 1},  // first line, whitespace aside
                           {"\n48213", "48213", 1},
                           {"48213.", "48213", 0},
                           {"", "48213", 0},
                       });
  expect_scores(list_recall, {
                                 {"1, 2, 3", "3, 2, 1", 1},
                                 {"44407 and 13944", "44407, 42384, 13944", 2. / 3},
                                 {"", "a, b", 0},
                                 {"a", "", 0},  // no item
                                 {"a", "a,", 1},
                             });
}

TEST(Metrics, BestOfTheAnswers) {
  const std::vector<std::string> answers = {"London", "the city of Paris", "Paris"};
  EXPECT_DOUBLE_EQ(best_score(Metric::kQaF1, "paris", answers), 1);
  EXPECT_DOUBLE_EQ(best_score(Metric::kQaF1, "city", answers), 0.5);  // of "city of paris": 2·1/(1+3)
  EXPECT_DOUBLE_EQ(best_score(Metric::kQaF1, "city", {}), 0);
}

TEST(Metrics, Names) {
  for (const char* name : {"qa_f1", "qa_f1_zh", "rouge_l", "rouge_l_zh", "classification", "retrieval",
                           "retrieval_zh", "count", "code_sim", "exact", "list_recall"})
    EXPECT_EQ(to_string(parse_metric(name)), name);
  EXPECT_THROW(parse_metric("bleu"), Error);
}

TEST(Metrics, TextThatIsNotUtf8) {
  EXPECT_DOUBLE_EQ(qa_f1("caf\xC3 bar", "bar"), 2. / 3);  // the byte becomes a character: caf� bar | bar
  EXPECT_DOUBLE_EQ(qa_f1("\xFF\x80", "bar"), 0);
}

}  // namespace
}  // namespace windowkv::eval
