#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "eval/answer.h"
#include "eval/contender.h"
#include "eval/jsonl_log.h"

/// Prompts × contenders, each answered once: the run of an evaluation whose results are rows.
namespace windowkv::eval {

struct GridPrompt {
  std::vector<Token> tokens;
  std::string text;                 ///< what the task is told from, chat template or not
  Task task = Task::kLocalization;  ///< what is given
  GenerateOptions generation;       ///< how it is answered; the grid adds its `cancelled`
  /// What a result says beside key, policy, budget, task decision, counts of tokens, kept bytes and times.
  std::function<nlohmann::ordered_json(const Answer& answer)> row;
};

struct PromptGrid {
  size_t prompts = 0;
  /// Names a result in the log, unlike every other.
  std::function<std::string(size_t prompt, const Contender& contender)> key;
  std::function<int64_t(size_t prompt)> size;  ///< about how many tokens it has; for the progress
  std::function<GridPrompt(size_t prompt)> make;

  TaskChoice task = TaskChoice::parse("given");
  JsonlLog* log = nullptr;  ///< results it has are not made again
  std::function<bool()> cancelled;
  /// Work in prompt tokens; results of earlier runs are not part of it.
  std::function<void(int64_t done, int64_t total)> progress;
  /// Receives a prompt for which make() throws Error, and why; without it the run ends there.
  std::function<void(size_t prompt, const std::string& error)> failed;
};

/// Rows [contender][prompt]; null where a prompt failed. The contenders of a prompt share one prefill. Rows
/// are in the log as soon as they are there. Where grid.cancelled says so the run stops, and prompts that are
/// not finished under all contenders are null too.
std::vector<std::vector<nlohmann::ordered_json>> run_grid(Engine& engine, const Model& model,
                                                          const PromptGrid& grid,
                                                          std::span<const Contender> contenders);

}  // namespace windowkv::eval
