#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "windowkv/selection.h"

/// What kind of question a prompt asks, inferred from its text.
namespace windowkv {

/// Where a task came from.
enum class DecisionSource {
  kGiven,       ///< by the caller
  kClassifier,  ///< by a classifier that was sure enough
  kNeutral,     ///< the fallback: the classifier was unsure, or there was no text
};
std::string_view to_string(DecisionSource source);

/// A task and how it was decided.
struct TaskDecision {
  Task task = Task::kLocalization;
  /// The classifier's probability of its likelier class, 0.5 to 1; after a fallback that class need not be
  /// `task`. 1 where the task was given, 0 where there was no text to classify.
  double probability = 1;
  DecisionSource source = DecisionSource::kGiven;
};

/// For example "classifier, p = 0.98" or "given".
std::string describe(const TaskDecision& decision);

/// The task used where no classifier is sure: the rule that loses least when it is wrong
/// (docs/classifier.md).
inline constexpr Task kNeutralTask = Task::kLocalization;
/// Below this probability kNeutralTask is used; chosen on the validation prompts (docs/classifier.md).
inline constexpr double kDefaultTaskThreshold = 0.6;

/// A feature of a prompt that counted towards a class.
struct TaskReason {
  std::string text;   ///< for example "\"summarize\" at the end"
  double weight = 0;  ///< in log odds: above 0 for aggregation, below 0 for localization
};

/// Classifies prompts by task. Implementations are safe to share between threads.
class TaskClassifier {
 public:
  virtual ~TaskClassifier() = default;
  /// The built-in classifier. It reads the first and last 1024 bytes (256 tokens' worth at 4 bytes per
  /// token), and counts how often the labels of the last lines occur in the whole text.
  static const TaskClassifier& builtin();
  /// From a file: weights written by `windowkv classify --train`, or a GGUF of a BERT family with a
  /// classification head, which libllama runs. A GGUF's labels come from the file
  /// (bert.classifier.output_labels) unless `labels` names them in order. Throws Error for a file that is
  /// neither, or whose labels are not the two tasks.
  static std::unique_ptr<TaskClassifier> load(const std::string& path,
                                              std::span<const std::string> labels = {});

  virtual std::string_view name() const = 0;
  /// For the user's text, with or without chat template: its markers are removed. Accepts any bytes; 0.5 for
  /// empty text.
  virtual double aggregation_probability(std::string_view text) const = 0;
  /// At most `count`, strongest first; empty where the classifier cannot explain itself.
  virtual std::vector<TaskReason> reasons(std::string_view text, size_t count) const;
};

/// The likelier task if its probability reaches `threshold`; kNeutralTask otherwise, or if `text` is empty or
/// all white space.
TaskDecision decide_task(const TaskClassifier& classifier, std::string_view text,
                         double threshold = kDefaultTaskThreshold);

}  // namespace windowkv
