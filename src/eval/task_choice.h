#pragma once

#include <memory>
#include <string_view>

#include "windowkv/classifier.h"

namespace windowkv::eval {

/// Which task a row of an evaluation is run under.
class TaskChoice {
 public:
  /// The classifier decides.
  TaskChoice() = default;
  /// "auto", "given" (what the row says of itself), "localization" or "aggregation". `classifier` null: the
  /// built-in one. Throws Error for another text.
  static TaskChoice parse(std::string_view text, double threshold = kDefaultTaskThreshold,
                          std::shared_ptr<const TaskClassifier> classifier = nullptr);

  /// The same classifier behind another text of parse().
  TaskChoice as(std::string_view text) const { return parse(text, threshold_, classifier_); }

  /// `given` is the row's own task, `prompt` its text before the chat template.
  TaskDecision operator()(Task given, std::string_view prompt) const;

 private:
  enum class Kind { kAuto, kGiven, kFixed };
  Kind kind_ = Kind::kAuto;
  Task fixed_ = Task::kLocalization;
  double threshold_ = kDefaultTaskThreshold;
  std::shared_ptr<const TaskClassifier> classifier_;
};

}  // namespace windowkv::eval
