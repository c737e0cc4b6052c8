#pragma once

#include <algorithm>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "windowkv/selection.h"

/// How good a task classifier is.
namespace windowkv::eval {

/// A labelled prompt and what a classifier made of it.
struct TaskOutcome {
  Task truth = Task::kLocalization;
  double aggregation_probability = 0.5;
  std::string source;  ///< "family/name"

  Task predicted() const { return aggregation_probability > 0.5 ? Task::kAggregation : Task::kLocalization; }
  double confidence() const { return std::max(aggregation_probability, 1 - aggregation_probability); }
};

/// Shares are 0 to 1; 0 where there is nothing to take a share of.
struct ClassScore {
  size_t rows = 0;
  double recall = 0;     ///< of the rows of the class, told as such
  double precision = 0;  ///< of the rows told as the class, truly such
  double f1 = 0;
};

/// Rows whose confidence lies in [from, to).
struct ReliabilityBin {
  double from = 0, to = 0;
  size_t rows = 0;
  double confidence = 0;  ///< mean
  double accuracy = 0;
};

struct TaskScores {
  size_t rows = 0;
  size_t right = 0;
  ClassScore localization, aggregation;
  std::vector<ReliabilityBin> bins;  ///< from 0.5 up; empty ones left out
  /// Expected calibration error: mean over the rows of their bin's |accuracy − confidence| (Guo et al. 2017).
  double calibration_error = 0;

  double accuracy() const { return rows == 0 ? 0 : static_cast<double>(right) / static_cast<double>(rows); }
};

TaskScores score_tasks(std::span<const TaskOutcome> outcomes);

/// Scores by the source's family, or by its whole name, in the order of their names.
std::vector<std::pair<std::string, TaskScores>> score_by_source(std::span<const TaskOutcome> outcomes,
                                                                bool families);

nlohmann::ordered_json to_json(const TaskScores& scores);

}  // namespace windowkv::eval
