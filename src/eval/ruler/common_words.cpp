#include <fmt/format.h>

#include <set>

#include "eval/ruler/drafts.h"

namespace windowkv::eval::ruler {

namespace {

constexpr size_t kCommon = 10;
constexpr std::string_view kAnswerPrefix =
    " Answer: The top 10 words that appear most often in the list are:";

/// How often the common words and the others occur, and how many different words there are.
struct Frequencies {
  size_t common = 0;
  size_t other = 0;
};

std::string numbered(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i)
    text += fmt::format("{}{}. {}", i == 0 ? "" : " ", i + 1, words[i]);
  return text;
}

std::vector<std::string> first(const std::vector<std::string>& words, size_t count) {
  return {words.begin(), words.begin() + static_cast<std::ptrdiff_t>(count)};
}

/// The question over the first `count` words, of which the first ten are the common ones.
std::string question(const std::vector<std::string>& words, size_t count, Frequencies frequencies,
                     Random random) {
  std::vector<std::string> list;
  for (size_t i = 0; i < count; ++i)
    list.insert(list.end(), i < kCommon ? frequencies.common : frequencies.other, words[i]);
  random.shuffle(list);
  return fmt::format(
      "Below is a numbered list of words. In these words, some appear more often than others. Memorize the "
      "ones that appear most often.\n{}\nQuestion: What are the 10 most common words in the above list?",
      numbered(list));
}

/// Our lists in random order, and after them the essay's other words, for long prompts. (RULER goes over to
/// a dictionary where its lists do not suffice.)
std::vector<std::string> draw_words(const Essay& essay, Random random) {
  std::set<std::string> listed;
  for (const auto* list : {&nouns(), &adjectives(), &verbs()}) listed.insert(list->begin(), list->end());
  std::vector<std::string> words(listed.begin(), listed.end()), further;
  std::copy_if(essay.lexicon.begin(), essay.lexicon.end(), std::back_inserter(further),
               [&](const std::string& word) { return !listed.contains(word); });
  random.shuffle(words);
  random.shuffle(further);
  words.insert(words.end(), further.begin(), further.end());
  return words;
}

}  // namespace

Draft draft_common_words(const Request& request) {
  // RULER's frequencies for its own lengths, and those it falls back to below them.
  constexpr int64_t kShort = 4096;
  const bool is_short = request.length < kShort;
  const auto frequencies = is_short ? Frequencies{6, 1} : Frequencies{30, 3};
  const auto in_example = is_short ? Frequencies{3, 1} : Frequencies{10, 3};
  const size_t words_in_example = is_short ? 20 : 40;

  const auto example_words = draw_words(request.source.essay, request.random("words of the example"));
  const auto example = fmt::format(
      "{}{} {}\n",
      question(example_words, words_in_example, in_example, request.random("order of the example")),
      kAnswerPrefix, numbered(first(example_words, kCommon)));
  const auto words = draw_words(request.source.essay, request.random("words"));
  return {.min_units = kCommon,
          .max_units = static_cast<int64_t>(words.size()),
          .text = [=, random = request.random("order")](int64_t units) -> Text {
            return {example + question(words, static_cast<size_t>(units), frequencies, random),
                    std::string(kAnswerPrefix), first(words, kCommon)};
          }};
}

}  // namespace windowkv::eval::ruler
