#include "eval/contender.h"

#include <fmt/format.h>

#include <charconv>

#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

int parse_number(std::string_view spec, std::string_view text) {
  int value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    throw Error(fmt::format("policy \"{}\": \"{}\" is not a number", spec, text));
  return value;
}

}  // namespace

Contender make_contender(std::string_view spec, const std::string& budget, int n_layer) {
  const auto kv = std::string(spec.substr(0, spec.find(':')));
  std::string preset = "default";
  std::optional<std::string> task_text;
  SelectionOverrides numbers;
  for (size_t at = kv.size(); at < spec.size();) {
    const size_t end = std::min(spec.find(':', at + 1), spec.size());
    const auto setting = spec.substr(at + 1, end - at - 1);
    const auto key = setting.substr(0, setting.find('='));
    const auto value = setting.substr(std::min(setting.size(), key.size() + 1));
    if (kv != "windowkv") throw Error(fmt::format("policy \"{}\": only windowkv takes numbers", spec));
    if (key == "preset")
      preset = value;
    else if (key == "task")
      task_text = value;
    else if (key == "pyramid")
      numbers.pyramid = parse_pyramid(value);
    else if (key == "window")
      numbers.omega = parse_number(spec, value);
    else if (key == "observe")
      numbers.alpha = parse_number(spec, value);
    else if (key == "group")
      numbers.gamma = parse_number(spec, value);
    else if (key == "lambda")
      numbers.lambda = parse_number(spec, value);
    else
      throw Error(fmt::format(
          "policy \"{}\": unknown key \"{}\"; use preset, task, window, observe, group, lambda or "
          "pyramid",
          spec, key));
    at = end;
  }
  const auto parsed = Budget::parse(budget);
  Contender contender{kv == "full" ? kv : fmt::format("{} {}", spec, budget), kv, budget, [=](Task task) {
                        return make_policy(kv, {parsed, make_config(preset, task, n_layer, numbers)});
                      }};
  contender.task = task_text;
  if (contender.task) TaskChoice::parse(*contender.task);
  contender.make(Task::kLocalization);  // so that a bad name or number is known before the first row
  return contender;
}

std::unique_ptr<Policy> policy_for(const Contender& contender, const TaskChoice& task, Task given,
                                   std::string_view prompt) {
  return contender.make((contender.task ? task.as(*contender.task) : task)(given, prompt).task);
}

}  // namespace windowkv::eval
