#include "classify/shape.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "support/file.h"

namespace windowkv {

namespace {

std::vector<std::string_view> trimmed_lines(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r";
  std::vector<std::string_view> lines;
  for (const auto& [number, line] : lines_of(text)) {
    const size_t first = line.find_first_not_of(kBlank);
    lines.push_back(line.substr(first, line.find_last_not_of(kBlank) - first + 1));
  }
  return lines;
}

/// The name of the first range that holds the number.
template <size_t N>
const char* range_of(size_t number, const std::array<std::pair<size_t, const char*>, N>& ranges,
                     const char* above) {
  for (const auto& [last, name] : ranges)
    if (number <= last) return name;
  return above;
}

const char* times(size_t count) {
  constexpr std::array<std::pair<size_t, const char*>, 5> kRanges = {
      {{0, "never"}, {1, "once"}, {2, "twice"}, {5, "3-5 times"}, {12, "6-12 times"}}};
  return range_of(count, kRanges, "over 12 times");
}

const char* words_in(std::string_view line) {
  constexpr std::array<std::pair<size_t, const char*>, 5> kRanges = {
      {{2, "1-2"}, {6, "3-6"}, {12, "7-12"}, {25, "13-25"}, {60, "26-60"}}};
  const auto words = 1 + static_cast<size_t>(std::count(line.begin(), line.end(), ' '));
  return range_of(words, kRanges, "over 60");
}

/// "Question:" of "Question: who?", "[Q]" of "[Q] who?", "Q." of "Q. who?", a short line as it is; else "".
std::string_view label_of(std::string_view line) {
  constexpr size_t kLongestLabel = 32, kLongestShort = 24, kLongestDotted = 16;
  if (line.front() == '[') {
    const size_t close = line.substr(0, kLongestShort).find(']');
    if (close != std::string_view::npos) return line.substr(0, close + 1);
  }
  const size_t colon = line.substr(0, kLongestLabel).find(':');
  if (colon != std::string_view::npos) return line.substr(0, colon + 1);
  const size_t dot = line.substr(0, kLongestDotted).find_first_of(". ");
  if (dot != std::string_view::npos && dot > 1 && line[dot] == '.') return line.substr(0, dot + 1);
  return line.size() <= kLongestShort ? line : std::string_view();
}

/// How often the label begins a line before its last one; "absent" for what is none.
std::string seen_before(std::string_view text, std::string_view label) {
  constexpr size_t kEnough = 20;
  if (label.size() < 2) return "absent";
  size_t count = 0;
  for (size_t at = text.find(label); at != std::string_view::npos && count < kEnough;
       at = text.find(label, at + label.size())) {
    const size_t before = at == 0 ? std::string_view::npos : text.find_last_not_of(" \t", at - 1);
    if (before == std::string_view::npos || text[before] == '\n') ++count;
  }
  return times(count > 0 ? count - 1 : 0);
}

/// The label above the last line that differs from its own; "" where the four lines above have none.
std::string_view label_above(const std::vector<std::string_view>& lines) {
  constexpr size_t kLinesAbove = 4;
  const auto own = label_of(lines.back());
  for (size_t back = 2; back <= lines.size() && back < 2 + kLinesAbove; ++back) {
    const auto label = label_of(lines[lines.size() - back]);
    if (label.size() >= 2 && label != own) return label;
  }
  return {};
}

std::string end_mark(std::string_view line) {
  constexpr std::array<std::pair<std::string_view, const char*>, 3> kWide = {
      {{"？", "?"}, {"：", ":"}, {"。", "."}}};
  for (const auto& [wide, narrow] : kWide)
    if (line.ends_with(wide)) return narrow;
  const char c = line.back();
  if (std::string_view("?:.!;,)}]>\"'_`|").find(c) != std::string_view::npos) return {c};
  return c >= '0' && c <= '9' ? "digit" : "letter";
}

const char* code_marks(std::string_view text) {
  const auto marks = std::count_if(text.begin(), text.end(), [](char c) {
    return std::string_view("{}();=<>[]&*#/\\|+").find(c) != std::string_view::npos;
  });
  constexpr std::array<std::pair<size_t, const char*>, 3> kRanges = {
      {{19, "no"}, {49, "little"}, {99, "some"}}};
  return range_of(1000 * static_cast<size_t>(marks) / text.size(), kRanges, "much");
}

void add_line_facts(std::vector<std::string>& facts, const char* which, std::string_view line) {
  facts.push_back(fmt::format("{} line ends with {}", which, end_mark(line)));
  facts.push_back(fmt::format("{} line of {} words", which, words_in(line)));
  facts.push_back(fmt::format("{} line of {} words ends with {}", which, words_in(line), end_mark(line)));
}

/// Examples repeat the words around what differs: how much of the last bytes stands earlier, and how often.
void add_repetition_facts(std::vector<std::string>& facts, std::string_view text, std::string_view tail,
                          std::string_view last_line) {
  constexpr size_t kSpan = 14, kStep = 7, kEnd = 160, kSearched = 32768, kEnough = 14, kOften = 3;
  const auto searched = text.substr(text.size() - std::min(text.size(), kSearched));
  size_t most = 0, often = 0, spans = 0;
  for (size_t at = tail.size() - std::min(tail.size(), kEnd); at + kSpan <= tail.size(); at += kStep) {
    const auto piece = tail.substr(at, kSpan);
    size_t count = 0;
    for (size_t found = searched.find(piece); found != std::string_view::npos && count < kEnough;
         found = searched.find(piece, found + kSpan))
      ++count;
    most = std::max(most, count);
    often += count >= kOften ? 1 : 0;
    ++spans;
  }
  constexpr std::array<std::pair<size_t, const char*>, 3> kShares = {{{0, "none"}, {2, "some"}, {5, "half"}}};
  const char* share = range_of(spans == 0 ? 0 : 10 * often / spans, kShares, "most");
  facts.push_back(fmt::format("{} of the end stands earlier too", share));
  facts.push_back(
      fmt::format("{} of the end stands earlier too, and it ends with {}", share, end_mark(last_line)));
  facts.push_back(fmt::format("a piece of the end stands earlier {}", times(most > 0 ? most - 1 : 0)));
}

}  // namespace

std::vector<std::string> describe_shape(std::string_view text, const Excerpt& excerpt) {
  const auto head = trimmed_lines(excerpt.head);
  const auto tail = trimmed_lines(excerpt.tail);
  if (head.empty() || tail.empty()) return {};
  std::vector<std::string> facts;
  const auto last = seen_before(text, label_of(tail.back()));
  const auto above = seen_before(text, label_above(tail));
  facts.push_back("last label seen before: " + last);
  facts.push_back("label above it seen before: " + above);
  facts.push_back(fmt::format("last two labels seen before: {}, {}", last, above));
  add_line_facts(facts, "first", head.front());
  add_line_facts(facts, "last", tail.back());
  facts.push_back(fmt::format("{} code marks at the start", code_marks(excerpt.head)));
  facts.push_back(fmt::format("{} code marks at the end", code_marks(excerpt.tail)));
  constexpr size_t kLines = 3;
  const auto asks = [](std::string_view line) { return line.ends_with('?') || line.ends_with("？"); };
  const auto first_lines = static_cast<std::ptrdiff_t>(std::min(head.size(), kLines));
  const auto last_lines = static_cast<std::ptrdiff_t>(std::min(tail.size(), kLines));
  const auto first = std::count_if(head.begin(), head.begin() + first_lines, asks);
  const auto at_end = std::count_if(tail.end() - last_lines, tail.end(), asks);
  facts.push_back(fmt::format("{} question lines first, {} last", first, at_end));
  facts.emplace_back(first + at_end > 0 ? "a question near an end" : "no question near an end");
  add_repetition_facts(facts, text, excerpt.tail, tail.back());
  return facts;
}

}  // namespace windowkv
