#include "eval/task_choice.h"

#include <fmt/format.h>

#include "windowkv/error.h"

namespace windowkv::eval {

TaskChoice TaskChoice::parse(std::string_view text, double threshold,
                             std::shared_ptr<const TaskClassifier> classifier) {
  TaskChoice choice;
  choice.threshold_ = threshold;
  choice.classifier_ = std::move(classifier);
  if (text == "auto") return choice;
  choice.kind_ = text == "given" ? Kind::kGiven : Kind::kFixed;
  if (choice.kind_ == Kind::kGiven) return choice;
  for (const auto task : {Task::kLocalization, Task::kAggregation})
    if (text == to_string(task)) {
      choice.fixed_ = task;
      return choice;
    }
  throw Error(fmt::format("unknown task \"{}\"; use auto, given, localization or aggregation", text));
}

TaskDecision TaskChoice::operator()(Task given, std::string_view prompt) const {
  if (kind_ == Kind::kAuto)
    return decide_task(classifier_ ? *classifier_ : TaskClassifier::builtin(), prompt, threshold_);
  return {kind_ == Kind::kGiven ? given : fixed_, 1, DecisionSource::kGiven};
}

}  // namespace windowkv::eval
