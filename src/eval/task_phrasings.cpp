#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <set>

#include "eval/task_rows.h"
#include "support/file.h"
#include "support/utf8.h"
#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

/// Lines by section.
using Phrasings = std::map<std::string, std::vector<std::string>, std::less<>>;

constexpr std::array<std::string_view, 7> kSections = {
    "question", "query", "localization", "aggregation", "announcement", "shot-task", "shot"};

std::string unescape(std::string_view line) {
  std::string out;
  for (size_t i = 0; i < line.size(); ++i) {
    const bool escape = line[i] == '\\' && i + 1 < line.size() && (line[i + 1] == 'n' || line[i + 1] == 't');
    out += escape ? (line[++i] == 'n' ? '\n' : '\t') : line[i];
  }
  return out;
}

Phrasings read_phrasings(const std::string& path) {
  const auto content = read_text_file(path);
  Phrasings lists;
  std::string section;
  for (const auto& [number, line] : lines_of(content)) {
    if (line.starts_with("# ")) continue;
    if (line.front() == '[' && line.back() == ']' &&
        std::find(kSections.begin(), kSections.end(), line.substr(1, line.size() - 2)) != kSections.end()) {
      section = line.substr(1, line.size() - 2);
      continue;
    }
    if (section.empty())
      throw Error(fmt::format("{}:{}: a phrasing before the first [section]", path, number));
    lists[section].push_back(unescape(line));
  }
  for (const auto name : kSections)
    if (lists.find(name) == lists.end()) throw Error(fmt::format("{}: no phrasings under [{}]", path, name));
  return lists;
}

/// splitmix64: the same numbers on every machine.
class Picker {
 public:
  explicit Picker(uint64_t seed) : state_(seed) {}
  size_t below(size_t n) {
    uint64_t x = state_ += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return static_cast<size_t>((x ^ (x >> 31)) % n);
  }
  template <typename T>
  const T& pick(const std::vector<T>& list) {
    return list[below(list.size())];
  }

 private:
  uint64_t state_;
};

bool is_name(std::string_view word) {
  if (word.size() < 3 || word[0] < 'A' || word[0] > 'Z') return false;
  return std::all_of(word.begin() + 1, word.end(), [](char c) { return c >= 'a' && c <= 'z'; });
}

bool is_number(std::string_view word) {
  return std::all_of(word.begin(), word.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// What a prompt's slots are filled with, from one context.
class Filler {
 public:
  Filler(const Phrasings& lists, std::string_view context, Picker& random)
      : lists_(lists), context_(context), random_(random) {
    for (size_t i = 0; i < context.size();) {
      const size_t end = std::min(context.find_first_of(" \n\t.,;:!?\"'()[]{}|<>=/", i), context.size());
      if (end > i) words_.push_back(context.substr(i, end - i));
      i = end + 1;
    }
    const std::set<std::string_view> known(words_.begin(), words_.end());
    for (const auto word : words_) {
      if (is_number(word)) numbers_.emplace_back(word);
      // "However" begins sentences and stands within them.
      if (!is_name(word)) continue;
      std::string small(word);
      small[0] = static_cast<char>(small[0] - 'A' + 'a');
      if (!known.contains(small)) names_.emplace_back(word);
    }
    if (names_.empty()) names_ = {"Norton", "Lisbon", "Alvarez"};
    if (numbers_.empty()) numbers_ = {"1987", "42", "310"};
  }

  std::string fill(std::string_view pattern) {
    std::string out;
    while (!pattern.empty()) {
      const size_t open = std::min(pattern.find('{'), pattern.size());
      const size_t close = pattern.find('}', open);
      out += pattern.substr(0, open);
      if (close == std::string_view::npos) return out + std::string(pattern.substr(open));
      out += slot(pattern.substr(open + 1, close - open - 1));
      pattern.remove_prefix(close + 1);
    }
    return out;
  }

 private:
  std::string slot(std::string_view name) {
    if (name == "context") return std::string(context_);
    if (name == "question" || name == "query") return fill(random_.pick(lists_.find(name)->second));
    if (name == "name" || name == "name2") return random_.pick(names_);
    if (name == "number") return random_.pick(numbers_);
    if (name == "quote") return run_of_words(5 + random_.below(6));
    if (name == "passage") return passage();
    return fmt::format("{{{}}}", name);
  }

  std::string run_of_words(size_t count) {
    std::string out;
    const size_t first = words_.size() > count ? random_.below(words_.size() - count) : 0;
    for (size_t i = first; i < std::min(words_.size(), first + count); ++i) {
      if (!out.empty()) out += ' ';
      out += words_[i];
    }
    return out;
  }

  /// 100 to 1,300 bytes of the context on one line.
  std::string passage() {
    const size_t length = std::min(context_.size(), 100 + random_.below(1200));
    std::string out(context_.substr(random_.below(context_.size() - length + 1), length));
    std::replace(out.begin(), out.end(), '\n', ' ');
    return out.substr(utf8_start(out), out.size() - utf8_start(out) - utf8_incomplete_tail(out));
  }

  static size_t utf8_start(std::string_view text) {
    size_t i = 0;
    while (i < text.size() && (static_cast<uint8_t>(text[i]) & 0xC0) == 0x80) ++i;
    return i;
  }

  const Phrasings& lists_;
  std::string_view context_;
  Picker& random_;
  std::vector<std::string_view> words_;
  std::vector<std::string> names_, numbers_;
};

/// The middles of prompts that hold no instruction there: examples are left out.
std::vector<std::string> contexts_of(std::span<const TaskRow> rows) {
  std::vector<std::string> contexts;
  for (const auto& row : rows) {
    if (row.text.size() < 1600 || source_family(row.source) == "shots" || row.source.ends_with("/few"))
      continue;
    const size_t quarter = row.text.size() / 4;
    const size_t first = row.text.find('\n', quarter);
    const size_t last = row.text.rfind('\n', row.text.size() - quarter);
    if (first == std::string::npos || last == std::string::npos || first + 400 > last) continue;
    contexts.push_back(row.text.substr(first + 1, last - first - 1));
  }
  return contexts;
}

/// A prompt of one phrasing; one without a place for the context stands before it, after it, or at both ends,
/// in turn.
std::string prompt_of(const std::string& phrasing, Filler& filler, const std::string& context, int copy) {
  auto filled = filler.fill(phrasing);
  if (phrasing.find("{context}") != std::string::npos) return filled;
  if (copy % 3 == 0) return fmt::format("{}\n\n{}", filled, context);
  return copy % 3 == 1 ? fmt::format("{}\n\n{}", context, filled)
                       : fmt::format("{0}\n\n{1}\n\n{0}", filled, context);
}

/// Examples of one pattern, the last without what follows its last label.
std::string many_shots(const std::string& pattern, const std::vector<std::string>& contexts,
                       const Phrasings& lists, Picker& random) {
  const size_t examples = 4 + random.below(9);
  std::string out;
  for (size_t i = 0; i <= examples; ++i) {
    Filler filler(lists, random.pick(contexts), random);
    const auto last_slot = pattern.rfind('{');
    auto open = pattern.substr(0, last_slot);
    while (i == examples && !open.empty() && open.back() == ' ') open.pop_back();
    out += i < examples ? filler.fill(pattern) : filler.fill(open);
  }
  return out;
}

}  // namespace

std::vector<TaskRow> rows_of_phrasings(const std::string& path, std::span<const TaskRow> rows, int copies) {
  const auto lists = read_phrasings(path);
  const auto contexts = contexts_of(rows);
  if (contexts.empty()) throw Error("no training prompt is long enough to take a context from");
  Picker random(1);
  std::vector<TaskRow> out;
  for (const auto task : {Task::kLocalization, Task::kAggregation}) {
    const auto& phrasings = lists.find(to_string(task))->second;
    for (size_t i = 0; i < phrasings.size(); ++i)
      for (int copy = 0; copy < copies; ++copy) {
        const auto& context = random.pick(contexts);
        Filler filler(lists, context, random);
        out.push_back({prompt_of(phrasings[i], filler, context, copy), task,
                       fmt::format("phrasings/{}/{}", to_string(task), i)});
      }
  }
  const auto& shots = lists.find("shot")->second;
  for (size_t i = 0; i < shots.size(); ++i)
    for (int copy = 0; copy < 2 * copies; ++copy) {
      const auto& task = random.pick(lists.find("shot-task")->second);
      const auto& announcement = random.pick(lists.find("announcement")->second);
      const size_t order = random.below(4);
      const auto head = order == 0   ? fmt::format("{}\n\n{}\n\n", task, announcement)
                        : order == 1 ? fmt::format("{} {}\n\n", announcement, task)
                        : order == 2 ? fmt::format("{} {}\n\n", task, announcement)
                                     : fmt::format("{}\n\n", task);
      out.push_back({head + many_shots(shots[i], contexts, lists, random), Task::kAggregation,
                     fmt::format("phrasings/shots/{}", i)});
    }
  return out;
}

}  // namespace windowkv::eval
