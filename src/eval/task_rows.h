#pragma once

#include <span>
#include <string>
#include <vector>

#include "windowkv/selection.h"

/// Prompts labelled by task, for training and judging task classifiers.
namespace windowkv::eval {

struct TaskRow {
  std::string text;
  Task task = Task::kLocalization;
  std::string
      source;  ///< where the phrasing comes from, "family/name"; rows of one source share their wording
};

/// Reads JSON lines of `text`, `label` ("localization", "aggregation") and, optionally, `source`. Throws
/// Error, naming file and line, for a row that is none.
std::vector<TaskRow> load_task_rows(std::span<const std::string> paths);

/// "hand" of "hand/loc/05ab": the part before the first slash.
std::string source_family(const std::string& source);

/// Prompts made from a file of phrasings (data/task-prompts/phrasings.txt says its form), `copies` of each,
/// with contexts cut from the middle of `rows`. The same arguments give the same prompts. Throws Error,
/// naming file and line, for a file that is none.
std::vector<TaskRow> rows_of_phrasings(const std::string& path, std::span<const TaskRow> rows, int copies);

}  // namespace windowkv::eval
