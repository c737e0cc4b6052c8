#include "eval/ruler/source.h"

#include <algorithm>
#include <set>

#include "eval/sentences.h"
#include "windowkv/error.h"

namespace windowkv::eval::ruler {

namespace {

constexpr std::string_view kBlank = " \n\t\r\f\v";

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// The word without the marks around it.
std::string_view bare(std::string_view word) {
  while (!word.empty() && !is_letter(word.front())) word.remove_prefix(1);
  while (!word.empty() && !is_letter(word.back())) word.remove_suffix(1);
  return word;
}

/// Names, which are never written small, and words with apostrophes or accents are left out.
bool is_plain(std::string_view word) {
  return word.size() >= 3 && word.size() <= 12 &&
         std::all_of(word.begin(), word.end(), [](char c) { return c >= 'a' && c <= 'z'; });
}

}  // namespace

Essay make_essay(std::string_view text) {
  Essay essay;
  std::string joined;
  std::vector<size_t> ends;  // of the words in `joined`
  std::set<std::string> lexicon;
  for (size_t at = text.find_first_not_of(kBlank); at != std::string_view::npos;) {
    const size_t end = std::min(text.find_first_of(kBlank, at), text.size());
    const auto word = text.substr(at, end - at);
    if (!joined.empty()) joined += ' ';
    joined += word;
    ends.push_back(joined.size());
    essay.words.emplace_back(word);
    if (const auto plain = bare(word); is_plain(plain)) lexicon.emplace(plain);
    at = text.find_first_not_of(kBlank, end);
  }
  if (essay.words.empty()) throw Error("the haystack is empty");
  for (size_t end : ends) essay.ends_sentence.push_back(ends_sentence(joined, end));
  essay.lexicon.assign(lexicon.begin(), lexicon.end());
  return essay;
}

}  // namespace windowkv::eval::ruler
