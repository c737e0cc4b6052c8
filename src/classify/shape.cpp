#include "classify/shape.h"

#include <fmt/format.h>

#include <algorithm>

namespace windowkv {

namespace {

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('\n', start), text.size());
    auto line = text.substr(start, end - start);
    while (!line.empty() && (line.back() == ' ' || line.back() == '\r' || line.back() == '\t'))
      line.remove_suffix(1);
    while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
    if (!line.empty()) lines.push_back(line);
    start = end + 1;
  }
  return lines;
}

/// "Question:" of "Question: who?", "[Q]" of "[Q] who?", a short line as it is; "" where there is none.
std::string_view label_of(std::string_view line) {
  if (line.front() == '[') {
    const size_t close = line.substr(0, 24).find(']');
    if (close != std::string_view::npos) return line.substr(0, close + 1);
  }
  const size_t colon = line.substr(0, 32).find(':');
  if (colon != std::string_view::npos) return line.substr(0, colon + 1);
  const size_t dot = line.substr(0, 16).find('.');
  if (dot != std::string_view::npos && dot > 1 && line.substr(0, dot).find(' ') == std::string_view::npos)
    return line.substr(0, dot + 1);
  return line.size() <= 24 ? line : std::string_view();
}

const char* range_name(size_t count) {
  return count == 0    ? "never"
         : count == 1  ? "once"
         : count == 2  ? "twice"
         : count <= 5  ? "3-5 times"
         : count <= 12 ? "6-12 times"
                       : "over 12 times";
}

/// Occurrences of `label` at the start of a line.
size_t count_label(std::string_view text, std::string_view label) {
  size_t count = 0;
  for (size_t at = text.find(label); at != std::string_view::npos && count < 20;
       at = text.find(label, at + label.size())) {
    size_t b = at;
    while (b > 0 && (text[b - 1] == ' ' || text[b - 1] == '\t')) --b;
    if (b == 0 || text[b - 1] == '\n') ++count;
  }
  return count;
}

const char* size_name(size_t words) {
  return words <= 2    ? "1-2"
         : words <= 6  ? "3-6"
         : words <= 12 ? "7-12"
         : words <= 25 ? "13-25"
         : words <= 60 ? "26-60"
                       : "over 60";
}

std::string end_mark(std::string_view line) {
  const char c = line.back();
  if (std::string_view("?:.!;,)}]>\"'_`|").find(c) != std::string_view::npos) return std::string(1, c);
  if (line.ends_with("？")) return "?";
  if (line.ends_with("：")) return ":";
  if (line.ends_with("。")) return ".";
  return (c >= '0' && c <= '9') ? "digit" : "letter";
}

size_t word_count(std::string_view line) {
  return 1 + static_cast<size_t>(std::count(line.begin(), line.end(), ' '));
}

const char* share_name(double s) {
  return s < 0.02 ? "no" : s < 0.05 ? "little" : s < 0.1 ? "some" : "much";
}

double code_share(std::string_view t) {
  if (t.empty()) return 0;
  size_t n = 0;
  for (char c : t) n += std::string_view("{}();=<>[]&*#/\\|+").find(c) != std::string_view::npos;
  return static_cast<double>(n) / static_cast<double>(t.size());
}

}  // namespace

std::vector<std::string> describe_shape(std::string_view text, const Excerpt& excerpt) {
  std::vector<std::string> facts;
  const auto tail = lines_of(excerpt.tail);
  const auto head = lines_of(excerpt.head);
  if (tail.empty()) return {"nothing to read"};
  const auto last = tail.back();
  const auto label = label_of(last);
  const std::string lr =
      label.size() < 2 ? "absent" : range_name(std::max<size_t>(1, count_label(text, label)) - 1);
  facts.push_back("last label seen " + lr);
  // the label before it
  std::string pr = "absent";
  size_t back = 0;
  for (size_t i = tail.size() - 1; i-- > 0 && back < 4; ++back) {
    const auto l = label_of(tail[i]);
    if (l.size() < 2 || l == label) continue;
    pr = range_name(std::max<size_t>(1, count_label(text, l)) - 1);
    break;
  }
  facts.push_back("label before it seen " + pr);
  facts.push_back("labels seen " + lr + "/" + pr);
  facts.push_back("ends with " + end_mark(last));
  facts.push_back(std::string("last line of words ") + size_name(word_count(last)));
  facts.push_back(fmt::format("last line {} {}", end_mark(last), size_name(word_count(last))));
  facts.push_back("first line ends with " + end_mark(head.front()));
  facts.push_back(std::string("first line of words ") + size_name(word_count(head.front())));
  facts.push_back(
      fmt::format("first line {} {}", end_mark(head.front()), size_name(word_count(head.front()))));
  facts.push_back(std::string("code marks at the end ") + share_name(code_share(excerpt.tail)));
  facts.push_back(std::string("code marks at the start ") + share_name(code_share(excerpt.head)));
  // questions near the ends
  size_t q = 0;
  for (size_t i = tail.size(); i-- > 0 && tail.size() - i <= 3;) q += tail[i].ends_with('?');
  size_t p = 0;
  for (size_t i = 0; i < head.size() && i < 3; ++i) p += head[i].ends_with('?');
  facts.push_back(fmt::format("questions {} in the last lines, {} in the first", q, p));
  facts.push_back(fmt::format("a question {} ", q + p > 0));
  // boilerplate of the end that stands earlier too
  constexpr size_t kSpan = 14;
  size_t best = 0, hits = 0, spans = 0;
  const std::string_view t = excerpt.tail;
  const size_t from = t.size() > 160 ? t.size() - 160 : 0;
  const auto body = text.substr(text.size() > 32768 ? text.size() - 32768 : 0);
  for (size_t at = from; at + kSpan <= t.size(); at += 7) {
    size_t count = 0;
    const auto piece = t.substr(at, kSpan);
    for (size_t f = body.find(piece); f != std::string_view::npos && count < 14;
         f = body.find(piece, f + kSpan))
      ++count;
    best = std::max(best, count), ++spans, hits += count >= 3;
  }
  const size_t sh = spans == 0 ? 0 : hits * 10 / spans;
  const char* hs = sh == 0 ? "none" : sh <= 2 ? "some" : sh <= 5 ? "half" : "most";
  facts.push_back(fmt::format("of the end, {} stands earlier", hs));
  facts.push_back(fmt::format("a piece of the end stands earlier {}", range_name(best > 0 ? best - 1 : 0)));
  facts.push_back(fmt::format("of the end, {} stands earlier, ends with {}", hs, end_mark(last)));
  return facts;
}

}  // namespace windowkv
