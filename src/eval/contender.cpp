#include "eval/contender.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

void set(std::string_view spec, std::string_view key, std::string_view value, SelectionOverrides& numbers) {
  std::string names = "preset, task, recall, total";
  for (const auto& setting : selection_settings()) {
    if (setting.name == key) return setting.set(numbers, value);
    names += fmt::format(", {}", setting.name);
  }
  throw Error(fmt::format("policy \"{}\": unknown key \"{}\"; use one of: {}", spec, key, names));
}

}  // namespace

int parse_recall(std::string_view text) {
  if (text == "off") return 0;
  int every = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), every);
  if (error != std::errc() || end != text.data() + text.size() || every < 0)
    throw Error(fmt::format(
        "recall {}: give the number of tokens between two choices, or off (or auto, for run, chat and serve)",
        text));
  return every;
}

int64_t parse_total(std::string_view text) {
  if (text == "off") return 0;
  const auto refuse = [&] {
    return Error(
        fmt::format("total {}: give the tokens that a layer holds at most (2048, or 2k), {} at least, or off",
                    text, kLeastTotal));
  };
  try {
    const auto total = Budget::parse(text);
    const int64_t tokens = total.resolve(INT32_MAX);
    if (total.is_count() && tokens >= kLeastTotal && tokens < INT32_MAX) return tokens;
  } catch (const Error&) {
    throw refuse();
  }
  throw refuse();
}

std::string policy_in(const std::string& name) {
  return name.substr(0, name.rfind(' '));
}

Contender make_contender(std::string_view spec, const std::string& budget, int n_layer) {
  const auto kv = std::string(spec.substr(0, spec.find(':')));
  std::string preset = "default";
  std::optional<std::string> task_text;
  SelectionOverrides numbers;
  int recall = 0;
  int64_t total = 0;
  for (size_t at = kv.size(); at < spec.size();) {
    const size_t end = std::min(spec.find(':', at + 1), spec.size());
    const auto setting = spec.substr(at + 1, end - at - 1);
    const auto key = setting.substr(0, setting.find('='));
    const auto value = setting.substr(std::min(setting.size(), key.size() + 1));
    const bool of_all = key == "recall" || key == "total";
    if (!of_all && kv != "windowkv")
      throw Error(
          fmt::format("policy \"{}\": only windowkv takes settings other than recall and total", spec));
    if (key == "recall")
      recall = parse_recall(value);
    else if (key == "total")
      total = parse_total(value);
    else if (key == "preset")
      preset = value;
    else if (key == "task")
      task_text = value;
    else
      set(spec, key, value, numbers);
    at = end;
  }
  const auto parsed = Budget::parse(budget);
  const bool full = kv == "full";
  Contender contender{
      full ? kv : fmt::format("{} {}", spec, budget), kv, full ? "100%" : budget, [=](Task task) {
        return make_policy(kv, {parsed, make_config(preset, task, n_layer, numbers), recall, total});
      }};
  contender.task = task_text;
  if (contender.task) TaskChoice::parse(*contender.task);
  contender.make(Task::kLocalization);  // so that a bad name or number is known before the first row
  return contender;
}

TaskDecision task_for(const Contender& contender, const TaskChoice& task, Task given,
                      std::string_view prompt) {
  return (contender.task ? task.as(*contender.task) : task)(given, prompt);
}

std::vector<Contender> make_contenders(std::span<const std::string> specs,
                                       std::span<const std::string> budgets, int n_layer) {
  std::vector<Contender> contenders;
  for (const auto& spec : specs)
    for (const auto& budget : budgets) {
      const bool full = budget == "full";  // a spec that is none is known all the same
      auto contender = make_contender(spec, full ? "100%" : budget, n_layer);
      if (full) contender = make_contender("full", "100%", n_layer);
      const bool known = std::any_of(contenders.begin(), contenders.end(),
                                     [&](const auto& c) { return c.name == contender.name; });
      if (!known) contenders.push_back(std::move(contender));
    }
  return contenders;
}

}  // namespace windowkv::eval
