#include "windowkv/classifier.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "classify/bert.h"
#include "classify/builtin_weights.h"
#include "classify/features.h"
#include "classify/linear_model.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

class LinearClassifier : public TaskClassifier {
 public:
  LinearClassifier(std::string name, LinearTaskModel model)
      : name_(std::move(name)), model_(std::move(model)) {}

  std::string_view name() const override { return name_; }

  double aggregation_probability(std::string_view text) const override {
    const auto features = extract_features(text);
    return features.empty() ? 0.5 : sigmoid(model_.logit(features));
  }

  std::vector<TaskReason> reasons(std::string_view text, size_t count) const override {
    std::vector<std::pair<uint32_t, std::string>> names;
    const auto features = extract_features(text, &names);
    const auto weights = model_.contributions(features);
    // Of the features that share a bucket, the first made is the plainest.
    std::map<uint32_t, std::string> name_of;
    for (auto& [bucket, name] : names) name_of.emplace(bucket, std::move(name));
    std::vector<TaskReason> out;
    for (size_t i = 0; i < features.size(); ++i)
      if (weights[i] != 0) out.push_back({name_of[features[i].bucket], weights[i]});
    std::stable_sort(out.begin(), out.end(), [](const TaskReason& a, const TaskReason& b) {
      return std::abs(a.weight) > std::abs(b.weight);
    });
    out.resize(std::min(out.size(), count));
    return out;
  }

 private:
  std::string name_;
  LinearTaskModel model_;
};

}  // namespace

std::string_view to_string(DecisionSource source) {
  switch (source) {
    case DecisionSource::kGiven:
      return "given";
    case DecisionSource::kClassifier:
      return "classifier";
    case DecisionSource::kNeutral:
      return "neutral";
  }
  return "";
}

std::string describe(const TaskDecision& decision) {
  if (decision.source == DecisionSource::kGiven) return "given";
  if (decision.probability == 0) return "default: no text";
  return fmt::format(
      "{}, p = {:.2f}",
      decision.source == DecisionSource::kClassifier ? "classifier" : "default: classifier unsure",
      decision.probability);
}

std::vector<TaskReason> TaskClassifier::reasons(std::string_view /*text*/, size_t /*count*/) const {
  return {};
}

const TaskClassifier& TaskClassifier::builtin() {
  static const LinearClassifier classifier(
      "built-in", LinearTaskModel::from_bytes(builtin_task_weights(), "the built-in weights"));
  return classifier;
}

std::unique_ptr<TaskClassifier> TaskClassifier::load(const std::string& path,
                                                     std::span<const std::string> labels) {
  const auto start = read_file_start(path, 16);
  const bool linear = LinearTaskModel::recognizes(start);
  if (!linear && !start.starts_with("GGUF"))
    throw Error(path +
                ": not a task classifier, which is a BERT model in GGUF or what windowkv classify --train "
                "writes");
  if (!linear) return load_bert_classifier(path, labels);
  if (!labels.empty()) throw Error(path + ": these weights have their own labels; do not give any");
  return std::make_unique<LinearClassifier>(path, LinearTaskModel::from_bytes(read_file(path), path));
}

TaskDecision decide_task(const TaskClassifier& classifier, std::string_view text, double threshold) {
  constexpr std::string_view kSpace = " \t\r\n\v\f";
  if (text.find_first_not_of(kSpace) == std::string_view::npos)
    return {kNeutralTask, 0, DecisionSource::kNeutral};
  const double p = classifier.aggregation_probability(text);
  const double likelier = std::max(p, 1 - p);
  if (likelier < threshold) return {kNeutralTask, likelier, DecisionSource::kNeutral};
  return {p > 0.5 ? Task::kAggregation : Task::kLocalization, likelier, DecisionSource::kClassifier};
}

}  // namespace windowkv
