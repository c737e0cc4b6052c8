#include "eval/sentences.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <span>

#include "eval/words.h"

namespace windowkv::eval {

namespace {

/// Takes one of the endings off the text, if it has one.
bool drop_ending(std::string_view& text, std::span<const std::string_view> endings) {
  for (auto ending : endings)
    if (text.ends_with(ending)) {
      text.remove_suffix(ending.size());
      return true;
    }
  return false;
}

/// Whether the period that follows the text belongs to its last word: "Mr", "St", "J".
bool is_abbreviation(std::string_view text) {
  constexpr std::array<std::string_view, 7> titles = {"Mr", "Mrs", "Ms", "Dr", "St", "Prof", "No"};
  size_t start = text.size();
  while (start > 0 && std::isalpha(static_cast<unsigned char>(text[start - 1])) != 0) --start;
  const auto word = text.substr(start);
  return (word.size() == 1 && word != "I") || std::find(titles.begin(), titles.end(), word) != titles.end();
}

}  // namespace

bool ends_sentence(std::string_view text, size_t at) {
  constexpr std::array<std::string_view, 9> closing = {"\"", "'", ")", "]", "”", "’", "」", "』", "）"};
  constexpr std::array<std::string_view, 4> western = {"!", "?", "…", "."};
  constexpr std::array<std::string_view, 3> chinese = {"。", "！", "？"};
  auto before = text.substr(0, at);
  const auto after = text.substr(at);
  if (before.empty() || is_blank(before.back())) return false;
  if (after.starts_with("\n\n") || after.starts_with("\r\n\r\n")) return true;
  for (auto mark : closing)
    if (after.starts_with(mark)) return false;
  while (drop_ending(before, closing)) {
  }
  if (drop_ending(before, chinese)) return true;
  if (!after.empty() && !is_blank(after.front())) return false;
  const bool period = before.ends_with('.');
  return drop_ending(before, western) && !(period && is_abbreviation(before));
}

}  // namespace windowkv::eval
