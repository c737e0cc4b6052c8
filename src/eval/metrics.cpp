#include "eval/metrics.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <unordered_map>
#include <utility>

#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

constexpr std::array<std::pair<Metric, std::string_view>, 14> kNames = {{
    {Metric::kQaF1, "qa_f1"},
    {Metric::kQaF1Zh, "qa_f1_zh"},
    {Metric::kRougeL, "rouge_l"},
    {Metric::kRouge1, "rouge_1"},
    {Metric::kRougeLZh, "rouge_l_zh"},
    {Metric::kClassification, "classification"},
    {Metric::kRetrieval, "retrieval"},
    {Metric::kRetrievalZh, "retrieval_zh"},
    {Metric::kCount, "count"},
    {Metric::kCodeSimilarity, "code_sim"},
    {Metric::kExact, "exact"},
    {Metric::kListRecall, "list_recall"},
    {Metric::kStringMatchAll, "string_match_all"},
    {Metric::kStringMatchPart, "string_match_part"},
}};

/// Words for qa_f1: lower case, no ASCII punctuation, no articles.
Words normalized_words(std::string_view utf8) {
  std::u32string text = lowercase(code_points(utf8));
  std::erase_if(text, is_ascii_punctuation);
  // Articles stand between anything that is no word character, as \b has it.
  std::u32string kept;
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    while (end < text.size() && is_word(text[end])) ++end;
    const auto word = text.substr(i, end - i);
    kept += word == U"a" || word == U"an" || word == U"the" ? U" " : word;
    if (end < text.size()) kept.push_back(text[end++]);
    i = end;
  }
  return split_words(kept);
}

bool is_chinese_punctuation(char32_t c) {
  // The official list; it has 》 but not 《.
  static constexpr std::u32string_view kMarks =
      U"！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘"
      U"〙"
      U"〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏.";
  return kMarks.find(c) != std::u32string_view::npos;
}

/// Chinese text in place of jieba's words: each character, whitespace left out; letters and digits of other
/// scripts in runs.
Words characters(std::string_view utf8) {
  Words units;
  bool inside = false;
  for (const char32_t c : code_points(utf8)) {
    const bool run = is_word(c) && !is_cjk(c);
    if (!is_space(c)) {
      if (!run || !inside) units.emplace_back();
      units.back().push_back(c);
    }
    inside = run;
  }
  return units;
}

Words normalized_characters(std::string_view utf8) {
  auto units = characters(utf8);
  for (auto& unit : units) {
    unit = lowercase(unit);
    std::erase_if(unit, [](char32_t c) { return is_ascii_punctuation(c) || is_chinese_punctuation(c); });
  }
  std::erase_if(units, [](const auto& unit) { return unit.empty(); });
  return units;
}

double number_share(std::string_view prediction, std::u32string_view expected) {
  const auto found = numbers(code_points(prediction));
  if (found.empty()) return 0;
  return static_cast<double>(std::count(found.begin(), found.end(), expected)) /
         static_cast<double>(found.size());
}

/// The digits after the first `label` that digits follow.
std::u32string labelled_number(std::string_view reference, std::u32string_view label) {
  const auto text = code_points(reference);
  for (size_t at = text.find(label); at != std::u32string::npos; at = text.find(label, at + 1)) {
    size_t end = at + label.size();
    while (end < text.size() && is_digit(text[end])) ++end;
    if (end > at + label.size()) return text.substr(at + label.size(), end - at - label.size());
  }
  throw Error(fmt::format("the answer \"{}\" names no paragraph", reference));
}

/// difflib.SequenceMatcher without junk: characters of all matching blocks.
class SequenceMatcher {
 public:
  SequenceMatcher(std::u32string_view a, std::u32string_view b) : a_(a), b_(b) {
    for (size_t j = 0; j < b.size(); ++j) places_[b[j]].push_back(j);
    if (b.size() >= 200)
      std::erase_if(places_, [&](const auto& entry) { return entry.second.size() > b.size() / 100 + 1; });
  }

  size_t matches() const {
    struct Range {
      size_t a_first, a_end, b_first, b_end;
    };
    size_t total = 0;
    std::vector<Range> open = {{0, a_.size(), 0, b_.size()}};
    while (!open.empty()) {
      const auto [a_first, a_end, b_first, b_end] = open.back();
      open.pop_back();
      const auto [i, j, size] = longest_match(a_first, a_end, b_first, b_end);
      if (size == 0) continue;
      total += size;
      open.push_back({a_first, i, b_first, j});
      open.push_back({i + size, a_end, j + size, b_end});
    }
    return total;
  }

 private:
  struct Block {
    size_t i, j, size;
  };

  Block longest_match(size_t a_first, size_t a_end, size_t b_first, size_t b_end) const {
    Block best = {a_first, b_first, 0};
    std::unordered_map<size_t, size_t> ends;  // length of the match that ends at this j and the i before
    for (size_t i = a_first; i < a_end; ++i) {
      std::unordered_map<size_t, size_t> next;
      if (const auto found = places_.find(a_[i]); found != places_.end()) {
        for (const size_t j : found->second) {
          if (j < b_first) continue;
          if (j >= b_end) break;
          const auto before = j == 0 ? ends.end() : ends.find(j - 1);
          const size_t size = (before == ends.end() ? 0 : before->second) + 1;
          next[j] = size;
          if (size > best.size) best = {i + 1 - size, j + 1 - size, size};
        }
      }
      ends = std::move(next);
    }
    // Characters too frequent to start a block may still lengthen it.
    while (best.i > a_first && best.j > b_first && a_[best.i - 1] == b_[best.j - 1])
      --best.i, --best.j, ++best.size;
    while (best.i + best.size < a_end && best.j + best.size < b_end &&
           a_[best.i + best.size] == b_[best.j + best.size])
      ++best.size;
    return best;
  }

  std::u32string_view a_, b_;
  std::unordered_map<char32_t, std::vector<size_t>> places_;  // in b
};

double score_one(Metric metric, std::string_view prediction, std::string_view reference,
                 std::span<const std::string> classes) {
  switch (metric) {
    case Metric::kQaF1:
      return qa_f1(prediction, reference);
    case Metric::kQaF1Zh:
      return qa_f1_zh(prediction, reference);
    case Metric::kRougeL:
      return rouge_l_f1(prediction, reference);
    case Metric::kRouge1:
      return rouge1_f1(prediction, reference);
    case Metric::kRougeLZh:
      return rouge_l_zh_f1(prediction, reference);
    case Metric::kClassification:
      return classification(prediction, reference, classes);
    case Metric::kRetrieval:
      return retrieval(prediction, reference);
    case Metric::kRetrievalZh:
      return retrieval_zh(prediction, reference);
    case Metric::kCount:
      return count(prediction, reference);
    case Metric::kCodeSimilarity:
      return code_similarity(prediction, reference);
    case Metric::kExact:
      return exact(prediction, reference);
    case Metric::kListRecall:
      return list_recall(prediction, reference);
    case Metric::kStringMatchAll:
    case Metric::kStringMatchPart:
      break;  // of all references together
  }
  return 0;
}

std::u32string without_leading_newlines(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  return code_points(text);
}

}  // namespace

std::string_view to_string(Metric metric) {
  for (const auto& [value, name] : kNames)
    if (value == metric) return name;
  return "";
}

Metric parse_metric(std::string_view name) {
  for (const auto& [value, known] : kNames)
    if (known == name) return value;
  std::vector<std::string_view> known;
  known.reserve(kNames.size());
  for (const auto& entry : kNames) known.push_back(entry.second);
  throw Error(fmt::format("unknown metric \"{}\"; known: {}", name, fmt::join(known, ", ")));
}

double qa_f1(std::string_view prediction, std::string_view reference) {
  return bag_f1(normalized_words(prediction), normalized_words(reference));
}

double qa_f1_zh(std::string_view prediction, std::string_view reference) {
  return bag_f1(normalized_characters(prediction), normalized_characters(reference));
}

double rouge_l_zh_f1(std::string_view prediction, std::string_view reference) {
  auto spaced = [](std::string_view text) {
    std::u32string out;
    for (const auto& unit : characters(text)) out += (out.empty() ? U"" : U" ") + unit;
    return out;
  };
  return rouge_l_f1(spaced(prediction), spaced(reference));
}

double classification(std::string_view prediction, std::string_view reference,
                      std::span<const std::string> classes) {
  if (classes.empty()) return prediction.find(reference) != std::string_view::npos ? 1 : 0;
  std::vector<std::string_view> named;
  for (const auto& name : classes)
    if (prediction.find(name) != std::string_view::npos) named.push_back(name);
  for (size_t i = 0; i < named.size(); ++i) {
    const auto name = named[i];
    if (name != reference && reference.find(name) != std::string_view::npos)
      named.erase(std::find(named.begin(), named.end(), name));
  }
  const bool right = std::find(named.begin(), named.end(), reference) != named.end();
  return right ? 1.0 / static_cast<double>(named.size()) : 0;
}

double retrieval(std::string_view prediction, std::string_view reference) {
  return number_share(prediction, labelled_number(reference, U"Paragraph "));
}

double retrieval_zh(std::string_view prediction, std::string_view reference) {
  return number_share(prediction, labelled_number(reference, U"段落"));
}

double count(std::string_view prediction, std::string_view reference) {
  return number_share(prediction, code_points(reference));
}

double code_similarity(std::string_view prediction, std::string_view reference) {
  std::u32string line;
  for (auto& candidate : split_at(without_leading_newlines(prediction), U'\n')) {
    if (candidate.find_first_of(U"`#") != std::u32string::npos ||
        candidate.find(U"//") != std::u32string::npos)
      continue;
    line = std::move(candidate);
    break;
  }
  return fuzz_ratio(line, code_points(reference));
}

double exact(std::string_view prediction, std::string_view reference) {
  const auto text = code_points(prediction);
  const auto stripped = strip(text);
  return strip(stripped.substr(0, stripped.find(U'\n'))) == strip(code_points(reference)) ? 1 : 0;
}

double list_recall(std::string_view prediction, std::string_view reference) {
  const auto text = code_points(prediction);
  int64_t items = 0, found = 0;
  for (const auto& part : split_at(code_points(reference), U',')) {
    const auto item = strip(part);
    if (item.empty()) continue;
    ++items;
    if (text.find(item) != std::u32string::npos) ++found;
  }
  return items == 0 ? 0 : static_cast<double>(found) / static_cast<double>(items);
}

namespace {

/// How many of the references occur in the prediction.
int64_t matches(std::string_view prediction, std::span<const std::string> references) {
  const auto said = lowercase(code_points(prediction));
  return std::count_if(references.begin(), references.end(), [&](const std::string& reference) {
    return said.find(lowercase(code_points(reference))) != std::u32string::npos;
  });
}

}  // namespace

double string_match_all(std::string_view prediction, std::span<const std::string> references) {
  return static_cast<double>(matches(prediction, references)) / static_cast<double>(references.size());
}

double string_match_part(std::string_view prediction, std::span<const std::string> references) {
  return matches(prediction, references) > 0 ? 1 : 0;
}

double fuzz_ratio(std::u32string_view first, std::u32string_view second) {
  if (first == second) return 1;
  if (first.empty() || second.empty()) return 0;
  const auto matches = static_cast<double>(SequenceMatcher(first, second).matches());
  const auto total = static_cast<double>(first.size() + second.size());
  return std::nearbyint(100 * (2.0 * matches / total)) / 100;
}

std::string_view first_line(std::string_view prediction) {
  prediction.remove_prefix(std::min(prediction.find_first_not_of('\n'), prediction.size()));
  return prediction.substr(0, prediction.find('\n'));
}

double best_score(Metric metric, std::string_view prediction, std::span<const std::string> references,
                  std::span<const std::string> classes) {
  if (metric == Metric::kStringMatchAll) return string_match_all(prediction, references);
  if (metric == Metric::kStringMatchPart) return string_match_part(prediction, references);
  double best = 0;
  for (const auto& reference : references)
    best = std::max(best, score_one(metric, prediction, reference, classes));
  return best;
}

}  // namespace windowkv::eval
