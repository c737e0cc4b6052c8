#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/random.h"
#include "eval/ruler/source.h"
#include "windowkv/policy.h"

/// The 13 tasks of RULER (Hsieh et al. 2024, arXiv 2404.06654) with the parameters, prompts and answer
/// lengths of github.com/NVIDIA/RULER. Each has a file of its own beside this one.
namespace windowkv::eval::ruler {

/// What a model is asked and must say. The answer prefix is the beginning of its answer.
struct Text {
  std::string input;
  std::string answer_prefix;
  std::vector<std::string> outputs;
};

/// A sample whose size is still open: units are what its haystack is made of (words, sentences, documents).
struct Draft {
  int64_t min_units = 1;
  int64_t max_units = int64_t{1} << 40;
  /// The same units always give the same text.
  std::function<Text(int64_t units)> text;
};

/// Which sample of a task. Its draws depend on all but the length, so that lengths can be compared.
struct Request {
  const Source& source;
  std::string_view task;
  int64_t length = 0;  ///< tokens of prompt and answer, which some parameters depend on
  uint64_t seed = 0;
  int64_t index = 0;

  /// Draws for one purpose, independent of those for others. RULER's own are Python's; samples of the same
  /// seed are not the same as its.
  Random random(std::string_view purpose) const;
};

/// How an answer is scored: the share of the expected texts that are in it, or whether any is.
enum class Match { kAll, kPart };

struct TaskInfo {
  std::string_view name;
  int64_t tokens_to_generate = 0;
  Match match = Match::kAll;
  Task task = Task::kLocalization;  ///< as WindowKV takes it
  /// Which data it needs, null if none.
  std::optional<QaData> Source::*data = nullptr;
  /// Throws Error where the data has no sample of that index.
  std::function<Draft(const Request&)> draft;
};

/// In RULER's order.
std::span<const TaskInfo> tasks();

/// Throws Error for an unknown name.
const TaskInfo& find_task(std::string_view name);

}  // namespace windowkv::eval::ruler
