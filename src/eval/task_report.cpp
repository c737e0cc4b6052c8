#include "eval/task_report.h"

#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "eval/task_rows.h"

namespace windowkv::eval {

namespace {

constexpr std::array<double, 7> kEdges = {0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0};

double share(size_t part, size_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

ClassScore class_score(std::span<const TaskOutcome> outcomes, Task task) {
  size_t truly = 0, told = 0, both = 0;
  for (const auto& o : outcomes) {
    truly += o.truth == task ? 1 : 0;
    told += o.predicted() == task ? 1 : 0;
    both += o.truth == task && o.predicted() == task ? 1 : 0;
  }
  return {truly, share(both, truly), share(both, told), share(2 * both, truly + told)};
}

nlohmann::ordered_json to_json(const ClassScore& s) {
  return {{"rows", s.rows}, {"recall", s.recall}, {"precision", s.precision}, {"f1", s.f1}};
}

}  // namespace

TaskScores score_tasks(std::span<const TaskOutcome> outcomes) {
  TaskScores scores;
  scores.rows = outcomes.size();
  scores.localization = class_score(outcomes, Task::kLocalization);
  scores.aggregation = class_score(outcomes, Task::kAggregation);
  std::array<ReliabilityBin, kEdges.size() - 1> bins;
  std::array<size_t, kEdges.size() - 1> right{};
  for (const auto& o : outcomes) {
    size_t bin = 0;
    while (bin + 1 < bins.size() && o.confidence() >= kEdges[bin + 1]) ++bin;
    ++bins[bin].rows;
    bins[bin].confidence += o.confidence();
    right[bin] += o.predicted() == o.truth ? 1 : 0;
  }
  for (size_t i = 0; i < bins.size(); ++i) {
    scores.right += right[i];
    auto& bin = bins[i];
    if (bin.rows == 0) continue;
    bin.from = kEdges[i], bin.to = kEdges[i + 1];
    bin.confidence /= static_cast<double>(bin.rows);
    bin.accuracy = share(right[i], bin.rows);
    scores.calibration_error += share(bin.rows, scores.rows) * std::abs(bin.accuracy - bin.confidence);
    scores.bins.push_back(bin);
  }
  return scores;
}

std::vector<std::pair<std::string, TaskScores>> score_by_source(std::span<const TaskOutcome> outcomes,
                                                                bool families) {
  std::map<std::string, std::vector<TaskOutcome>> groups;
  for (const auto& o : outcomes) groups[families ? source_family(o.source) : o.source].push_back(o);
  std::vector<std::pair<std::string, TaskScores>> out;
  out.reserve(groups.size());
  for (const auto& [name, group] : groups) out.emplace_back(name, score_tasks(group));
  return out;
}

nlohmann::ordered_json to_json(const TaskScores& s) {
  nlohmann::ordered_json bins = nlohmann::ordered_json::array();
  for (const auto& b : s.bins)
    bins.push_back({{"from", b.from},
                    {"to", b.to},
                    {"rows", b.rows},
                    {"confidence", b.confidence},
                    {"accuracy", b.accuracy}});
  return {{"rows", s.rows},
          {"accuracy", s.accuracy()},
          {"localization", to_json(s.localization)},
          {"aggregation", to_json(s.aggregation)},
          {"calibration_error", s.calibration_error},
          {"reliability", bins}};
}

}  // namespace windowkv::eval
