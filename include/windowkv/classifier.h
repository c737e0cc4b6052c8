#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "windowkv/selection.h"

/// What kind of question a prompt asks, told from its text.
namespace windowkv {

/// Where a task came from.
enum class DecisionSource {
  kGiven,       ///< the caller's word
  kClassifier,  ///< a classifier was sure enough
  kNeutral,     ///< none was, or there was no text: the neutral choice
};
std::string_view to_string(DecisionSource source);

/// A task, and why.
struct TaskDecision {
  Task task = Task::kLocalization;
  /// The classifier's probability of its likelier class, 0.5 to 1, which after a neutral choice need not be
  /// `task`; 1 where the task was given, 0 where there was no text to classify.
  double probability = 1;
  DecisionSource source = DecisionSource::kGiven;
};

/// "classifier, p = 0.98", "given", "the default, as the classifier is unsure, p = 0.54".
std::string describe(const TaskDecision& decision);

/// What stands in where no classifier is sure: the rule that loses least when it is the wrong one
/// (docs/classifier.md).
inline constexpr Task kNeutralTask = Task::kLocalization;
/// Under this probability the neutral choice is made; chosen on the validation prompts (docs/classifier.md).
inline constexpr double kDefaultTaskThreshold = 0.6;

/// A property of a prompt that spoke for a class.
struct TaskReason {
  std::string text;   ///< as "\"summarize\" at the end"
  double weight = 0;  ///< in the log odds: above 0 for aggregation, below for localization
};

/// Tells tasks apart. Implementations are safe to share between threads.
class TaskClassifier {
 public:
  virtual ~TaskClassifier() = default;
  /// The one within the library. It reads the first and last 1024 bytes (256 tokens' worth at 4 bytes a
  /// token), and counts how often the labels of the last lines stand in the whole text.
  static const TaskClassifier& builtin();
  /// From a file: weights that `windowkv classify --train` wrote, or a GGUF of a BERT family with a
  /// classification head, which libllama runs. A GGUF's labels come from the file
  /// (bert.classifier.output_labels) unless `labels` names them in order. Throws Error for a file that is
  /// neither, or whose labels are not the two tasks.
  static std::unique_ptr<TaskClassifier> load(const std::string& path,
                                              std::span<const std::string> labels = {});

  virtual std::string_view name() const = 0;
  /// Of the user's text, chat template or not: its marks are taken out. Any bytes are text; 0.5 for none.
  virtual double aggregation_probability(std::string_view text) const = 0;
  /// The strongest first, at most `count`; empty where the classifier cannot say.
  virtual std::vector<TaskReason> reasons(std::string_view text, size_t count) const;
};

/// The likelier task where its probability reaches `threshold`, kNeutralTask where it does not or `text` has
/// nothing but space in it.
TaskDecision decide_task(const TaskClassifier& classifier, std::string_view text,
                         double threshold = kDefaultTaskThreshold);

}  // namespace windowkv
