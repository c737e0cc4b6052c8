#include <fmt/format.h>
#include <fmt/ranges.h>

#include <numbers>
#include <set>

#include "eval/ruler/drafts.h"
#include "windowkv/error.h"

namespace windowkv::eval::ruler {

namespace {

constexpr size_t kLetters = 6;
constexpr int64_t kTokensToGenerate = 50;

/// How often the word of that rank (from 1) occurs in a text of so many: Zipf's law with exponent 2, rounded
/// down.
size_t frequency(int64_t words, size_t rank) {
  constexpr double kZeta2 = std::numbers::pi * std::numbers::pi / 6;
  const auto k = static_cast<double>(rank);
  return static_cast<size_t>(static_cast<double>(words) / (k * k) / kZeta2);
}

/// The words by rank. The most frequent is "...", noise that does not count.
std::vector<std::string> draw_vocabulary(Random random, size_t size) {
  std::set<std::string> drawn;
  while (drawn.size() < size) drawn.insert(random.letters(kLetters, 'a'));
  std::vector<std::string> words(drawn.begin(), drawn.end());
  random.shuffle(words);
  words[0] = "...";
  return words;
}

}  // namespace

Draft draft_frequent_words(const Request& request) {
  // Fewer words in the text, and the third and the fourth coded word may be equally frequent.
  constexpr int64_t kLeastWords = 53;
  constexpr int64_t kLeastVocabulary = 4;
  const auto vocabulary_size = (request.length - kTokensToGenerate) / 50;
  if (vocabulary_size < kLeastVocabulary)
    throw Error(fmt::format("fwe needs at least {} tokens", kLeastVocabulary * 50 + kTokensToGenerate));
  const auto vocabulary = draw_vocabulary(request.random("words"), static_cast<size_t>(vocabulary_size));
  return {
      .min_units = kLeastWords, .text = [=, order = request.random("order")](int64_t units) -> Text {
        std::vector<std::string_view> words;
        for (size_t i = 0; i < vocabulary.size(); ++i)
          words.insert(words.end(), frequency(units, i + 1), vocabulary[i]);
        auto random = order;
        random.shuffle(words);
        return {
            fmt::format("Read the following coded text and track the frequency of each coded word. Find "
                        "the three most frequently appeared coded words. {}\nQuestion: Do not provide any "
                        "explanation. Please ignore the dots '....'. What are the three most frequently "
                        "appeared words in the above coded text?",
                        fmt::join(words, " ")),
            " Answer: According to the coded text above, the three most frequently appeared words are:",
            {vocabulary.begin() + 1, vocabulary.begin() + 4}};
      }};
}

}  // namespace windowkv::eval::ruler
