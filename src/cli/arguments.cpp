#include "cli/arguments.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "cli/llama_flags.h"

namespace windowkv::cli {

namespace {

/// Single letters inserted, left out or replaced.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row.back();
}

/// "-n" or "--predict".
bool looks_like_flag(const std::string& word) {
  return word.size() > 1 && word[0] == '-' && word[1] != ' ' && word.find('\n') == std::string::npos;
}

/// "NAME,...": values that commas separate.
bool is_list(const CLI::Option& option) {
  return option.get_type_name().find(",...") != std::string::npos || option.get_delimiter() == ',';
}

/// "a, b" as "a,b".
std::string without_blanks_in_list(const std::string& text) {
  std::string out;
  for (size_t start = 0; start <= text.size();) {
    const size_t end = std::min(text.find(',', start), text.size());
    const auto first = std::min(text.find_first_not_of(" \t", start), end);
    const auto last = text.find_last_not_of(" \t", end - 1);
    if (start > 0) out += ',';
    if (first < end) out += text.substr(first, last + 1 - first);
    start = end + 1;
  }
  return out;
}

/// What other programs call some flags, between blanks, and ours.
constexpr std::pair<std::string_view, std::string_view> kOtherFlags[] = {
    {" --max-tokens --max-new-tokens --max-output-tokens --num-predict ", "--predict"},
    {" --context --context-length --context-size --num-ctx --n-ctx ", "--ctx-size"},
    {" --input --input-file --document ", "--file"},
    {" --output --output-file ", "--out"},
    {" --question --query ", "--prompt"},
};

/// "" where no other program calls a flag so.
std::string_view our_name(const std::string& name) {
  for (const auto& [names, ours] : kOtherFlags)
    if (names.find(" " + name + " ") != std::string_view::npos) return ours;
  return "";
}

class Reader {
 public:
  Reader(CLI::App& command, std::span<const std::string> typed, std::vector<std::string>& notes)
      : command_(command), typed_(typed), notes_(notes) {}

  std::vector<std::string> read() {
    while (at_ < typed_.size()) {
      const auto& word = typed_[at_++];
      if (looks_like_flag(word))
        flag(word);
      else
        positional(word);
    }
    note_repeated();
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw UsageError(what, help_of(command_)); }

  CLI::Option* own(const std::string& name) const {
    return name.starts_with('-') ? command_.get_option_no_throw(name) : nullptr;
  }

  bool is_known(const std::string& name) const {
    return own(name) != nullptr || (loads_model() && find_llama_flag(name) != nullptr);
  }

  /// llama.cpp's flags are about running a model.
  bool loads_model() const { return own("--model") != nullptr; }

  void positional(const std::string& word) {
    if (!command_.get_options([](const CLI::Option* o) { return o->get_positional(); }).empty()) {
      out_.push_back(word);
      return;
    }
    if (word.ends_with(".gguf") && own("--model") != nullptr)
      fail(fmt::format("unexpected \"{}\"; give the model with -m {}", word, word));
    if (word.find(' ') != std::string::npos && own("--prompt") != nullptr)
      fail(fmt::format("unexpected \"{}\"; give the prompt with -p", word));
    fail(fmt::format("unexpected \"{}\"; text with spaces needs quotes", word));
  }

  /// The value that follows `name`, which is the next word whatever it begins with, but no flag's name.
  std::string value_after(const std::string& name) {
    if (at_ == typed_.size()) fail(name + " needs a value");
    const auto& word = typed_[at_];
    if (is_known(word))
      fail(fmt::format("{} needs a value, but the flag {} follows; if that is the value: {}={}", name, word,
                       name, word));
    ++at_;
    return word;
  }

  void flag(const std::string& word) {
    const size_t equals = word.find('=');
    const auto name = word.substr(0, equals);
    const bool assigned = equals != std::string::npos;
    const auto value = assigned ? word.substr(equals + 1) : "";
    if (name == "--help-all") throw Page::kHelpAll;
    if (name == "-h" || name == "--help" || name == "--usage") throw Page::kHelp;
    if (name == "--list-devices" && loads_model()) throw Page::kDevices;
    if (auto* option = own(name)) return ours(*option, name, assigned, value);
    if (const auto* row = loads_model() ? find_llama_flag(name) : nullptr)
      return llamas(*row, name, assigned, value);
    unknown(word, name);
  }

  [[noreturn]] void unknown(const std::string& word, const std::string& name) const {
    // "-model": no value, one "-" too few.
    if (own("-" + name) != nullptr) fail(fmt::format("unknown flag {}; did you mean -{}?", name, name));
    if (const auto* option = own(std::string(our_name(name)))) {
      const auto both =
          option->get_snames().empty() ? "" : fmt::format("-{} or ", option->get_snames().front());
      fail(fmt::format("unknown flag {}; did you mean {}--{}?", name, both, option->get_lnames().front()));
    }
    std::vector<std::string> likely;
    // A value glued to a flag of one letter, or to one of llama.cpp's short names.
    for (size_t size = word.starts_with("--") ? 0 : word.size() - 1; size >= 2 && likely.empty(); --size)
      if (const auto start = word.substr(0, size); is_known(start))
        likely.push_back(fmt::format("{} {}", start, word.substr(size)));
    if (auto near = nearest_flag(name); !near.empty()) likely.push_back(std::move(near));
    if (!likely.empty())
      fail(fmt::format("unknown flag {}; did you mean {}?", word, fmt::join(likely, " or ")));
    fail("unknown flag " + name);
  }

  std::string nearest_flag(const std::string& name) const {
    std::vector<std::string> names = {"--help", "--help-all"};
    if (loads_model()) names.emplace_back("--list-devices");
    for (const auto* option : all_options(command_)) {
      for (const auto& l : option->get_lnames()) names.push_back("--" + l);
    }
    return nearest(name, names);
  }

  void ours(const CLI::Option& option, const std::string& name, bool assigned, const std::string& value) {
    if (option.get_items_expected_max() == 0) {
      if (assigned) fail(name + " takes no value");
      out_.push_back("--" + option.get_lnames().front());
      return;
    }
    take(option, name, assigned ? value : value_after(name));
    // FILE...: as many as follow, one flag each for CLI11.
    while (!assigned && option.get_allow_extra_args() && at_ < typed_.size() && !looks_like_flag(typed_[at_]))
      take(option, name, typed_[at_++]);
  }

  /// A value of one of our flags, `name` as typed.
  void take(const CLI::Option& option, const std::string& name, std::string value) {
    if (is_list(option)) value = without_blanks_in_list(value);
    if (option.get_items_expected_max() == 1) {
      auto& given = given_[&option];
      ++given.count;
      given.differs = given.differs || (given.count > 1 && value != given.value);
      given.value = value;
      if (std::ranges::find(given.names, name) == given.names.end()) given.names.push_back(name);
    }
    out_.insert(out_.end(), {"--" + option.get_lnames().front(), std::move(value)});
  }

  /// Where a flag with one value has several, CLI11 takes the last.
  void note_repeated() {
    for (const auto* option : all_options(command_)) {
      const auto found = given_.find(option);
      if (found == given_.end() || !found->second.differs) continue;
      const auto& given = found->second;
      const auto times = given.count == 2 ? "twice" : fmt::format("{} times", given.count);
      notes_.push_back(
          given.names.size() == 1
              ? fmt::format("{} was given {}; the last one counts", given.names.front(), times)
              : fmt::format("{} set the same; the last one counts", fmt::join(given.names, " and ")));
    }
  }

  void llamas(const LlamaFlag& row, const std::string& name, bool assigned, std::string value) {
    if (row.by_value == nullptr && row.fate == Fate::kRefused) fail(fmt::format("{}: {}", name, row.text));
    if (row.takes == Takes::kNothing && assigned) fail(name + " takes no value");
    if (row.takes == Takes::kValue && !assigned) value = value_after(name);
    if (row.takes == Takes::kSwitch && !assigned && at_ < typed_.size() && is_switch_word(typed_[at_]))
      value = typed_[at_++];
    const auto meaning = row.meaning(value);
    if (meaning.fate == Fate::kRefused) fail(name + ": " + meaning.text);
    if (meaning.fate == Fate::kIgnored) {
      if (!meaning.text.empty())
        notes_.push_back(meaning.text.starts_with("ignored") ? name + " is " + meaning.text : meaning.text);
      return;
    }
    const size_t equals = meaning.text.find('=');
    const auto flag = meaning.text.substr(0, equals);
    auto* option = own(flag);
    if (option == nullptr) fail(fmt::format("windowkv {} has no {}", command_.get_name(), name));
    if (option->get_items_expected_max() == 0)
      out_.push_back(flag);
    else
      take(*option, name, equals == std::string::npos ? value : meaning.text.substr(equals + 1));
  }

  /// A flag whose value counts once.
  struct Given {
    int count = 0;
    std::vector<std::string> names;  // as typed
    std::string value;
    bool differs = false;  // not all values are the same
  };

  CLI::App& command_;
  std::span<const std::string> typed_;
  std::vector<std::string>& notes_;
  std::map<const CLI::Option*, Given> given_;
  std::vector<std::string> out_;
  size_t at_ = 0;
};

void collect(CLI::App& app, std::vector<CLI::Option*>& options) {
  for (auto* option : app.get_options()) options.push_back(option);
  for (auto* group : app.get_subcommands([](CLI::App* sub) { return sub->get_name().empty(); }))
    collect(*group, options);
}

}  // namespace

std::string help_of(const CLI::App& command) {
  return fmt::format("windowkv {} --help", command.get_name());
}

std::vector<CLI::Option*> all_options(CLI::App& command) {
  std::vector<CLI::Option*> options;
  collect(command, options);
  return options;
}

std::string nearest(const std::string& typed, const std::vector<std::string>& names) {
  std::string best;
  size_t least = 1 + typed.size() / 4;
  for (const auto& name : names)
    if (const auto distance = edit_distance(typed, name);
        distance <= least && !(distance == least && !best.empty())) {
      best = name;
      least = distance;
    }
  if (!best.empty()) return best;
  // A part of a longer name: --budget of --kv-budget.
  const auto part = typed.substr(std::min(typed.find_first_not_of('-'), typed.size()));
  for (const auto& name : names)
    if (part.size() >= 4 && name.find(part) != std::string::npos) return name;
  return "";
}

std::vector<std::string> plain_arguments(CLI::App& command, std::span<const std::string> typed,
                                         std::vector<std::string>& notes) {
  return Reader(command, typed, notes).read();
}

}  // namespace windowkv::cli
