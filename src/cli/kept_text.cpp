#include "cli/kept_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "support/utf8.h"

namespace windowkv::cli {

namespace {

struct Shade {
  double most;        // share
  const char* range;  // of shares, for people
  const char* code;   // ground and letters, of the 256 colours, readable on dark and light terminals
};
// Finer at the lower end, where the shares of a small budget are.
constexpr std::array<Shade, 5> kShades = {{{0.1, "1-10 %", "48;5;24;38;5;231"},
                                           {0.25, "11-25 %", "48;5;30;38;5;231"},
                                           {0.5, "26-50 %", "48;5;34;38;5;16"},
                                           {0.75, "51-75 %", "48;5;220;38;5;16"},
                                           {1, "76-100 %", "48;5;208;38;5;16"}}};
constexpr const char* kDim = "2";

/// The shade of a share, -1 for none.
int shade_of(double share) {
  if (share <= 0) return -1;
  int shade = 0;
  while (shade + 1 < static_cast<int>(kShades.size()) &&
         share > kShades[static_cast<size_t>(shade)].most + 1e-9)
    ++shade;
  return shade;
}

/// Line ends stay plain, so that no terminal colours the rest of a line.
std::string shaded(const std::string& text, const char* code) {
  std::string out;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('\n', start), text.size());
    if (end > start) out += fmt::format("\x1b[{}m{}\x1b[0m", code, text.substr(start, end - start));
    if (end < text.size()) out += '\n';
    start = end + 1;
  }
  return out;
}

std::string shaded_text(const std::vector<KeptUnit>& units, bool kept_only) {
  std::string out;
  for (size_t i = 0; i < units.size();) {
    const int shade = shade_of(units[i].share);
    std::string run;
    for (; i < units.size() && shade_of(units[i].share) == shade; ++i) run += units[i].text;
    if (shade < 0 && kept_only) run = " ... ";
    out += shaded(run, shade < 0 ? kDim : kShades[static_cast<size_t>(shade)].code);
  }
  return out + "\n";
}

struct Line {
  std::string text;
  double share = 0;  // sum over the tokens
  int64_t tokens = 0;
};

std::vector<Line> lines_of_units(const std::vector<KeptUnit>& units) {
  constexpr size_t kWidth = 72, kLongestWord = 24;
  std::vector<Line> lines(1);
  for (const auto& unit : units) {
    const size_t width = utf8_characters(lines.back().text) + utf8_characters(unit.text);
    const bool word = unit.text.starts_with(' ');
    if (width > kWidth && !lines.back().text.empty() && (word || width > kWidth + kLongestWord))
      lines.emplace_back();
    lines.back().share += unit.share * static_cast<double>(unit.tokens);
    lines.back().tokens += unit.tokens;
    for (const char c : unit.text) {
      if (c == '\n')
        lines.emplace_back();
      else if (c != '\r' && (c != ' ' || !lines.back().text.empty() || !word))
        lines.back().text += c;
    }
  }
  if (lines.back().tokens == 0 && lines.back().text.empty()) lines.pop_back();
  return lines;
}

std::string percent_text(const Line& line) {
  if (line.tokens == 0) return "";  // the end of a token that began on the line above
  const double percent = 100 * line.share / static_cast<double>(line.tokens);
  return percent > 0 && percent < 1 ? "<1 %" : fmt::format("{:.0f} %", percent);
}

std::string lines_text(const std::vector<KeptUnit>& units, bool kept_only) {
  std::string out;
  bool gap = false;
  for (const auto& line : lines_of_units(units)) {
    if (kept_only && line.share <= 0) {
      if (!gap) out += "    ...\n";
      gap = true;
      continue;
    }
    gap = false;
    const bool blank = line.text.find_first_not_of(' ') == std::string::npos;
    out += blank ? "\n" : fmt::format("{:>5}  {}\n", percent_text(line), line.text);
  }
  return out;
}

}  // namespace

std::string kept_text(const Vocab& vocab, std::span<const Token> prompt, std::span<const double> shares,
                      const KeptTextStyle& style) {
  const auto units = kept_units(vocab, prompt, shares);
  return style.color ? shaded_text(units, style.kept_only) : lines_text(units, style.kept_only);
}

std::string kept_legend(const std::string& of, const KeptTextStyle& style) {
  if (!style.color)
    return fmt::format(
        "Each line starts with the share of {} that keep its tokens, averaged over the line.\n", of);
  std::string legend = "Shades: a token is kept by";
  for (const auto& shade : kShades) legend += fmt::format(" \x1b[{}m {} \x1b[0m", shade.code, shade.range);
  return fmt::format("{} of {}; \x1b[{}mdim text\x1b[0m is dropped.\n", legend, of, kDim);
}

}  // namespace windowkv::cli
