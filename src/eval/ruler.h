#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "eval/contender.h"
#include "eval/jsonl_log.h"
#include "eval/prompt_form.h"
#include "eval/ruler/tasks.h"
#include "windowkv/engine.h"

/// RULER (Hsieh et al. 2024, arXiv 2404.06654): synthetic tasks of any length, made with the model's own
/// tokenizer. Prompts, parameters and scores are those of github.com/NVIDIA/RULER. Its samples themselves are
/// not: draws are ours, words for keys are our own lists, the essay is whatever text is given, and haystacks
/// are filled to the last unit that fits, where RULER goes in steps.
namespace windowkv::eval::ruler {

/// One prompt of a run.
struct Point {
  const TaskInfo* task = nullptr;
  int64_t length = 0;  ///< most tokens of prompt and answer together
  int64_t index = 0;
};

/// All of the tasks' samples 0 to `samples` − 1 at all lengths: tasks innermost but for the samples.
std::vector<Point> grid_points(std::span<const TaskInfo* const> tasks, std::span<const int64_t> lengths,
                               int64_t samples);

struct Sample {
  Text text;
  std::vector<Token> tokens;  ///< of the whole prompt: template, input, answer prefix
  int64_t length = 0;         ///< tokens of input, answer prefix and answer, as RULER counts
  int64_t units = 0;          ///< size of the haystack
};

class Samples {
 public:
  /// `chat`: the model's chat template around the input, the answer prefix after it. `source` needs no
  /// count_tokens. Throws Error where chat_form does.
  Samples(const Vocab& vocab, Source source, bool chat, uint64_t seed);
  Samples(const Samples&) = delete;
  Samples& operator=(const Samples&) = delete;

  /// With as large a haystack as fits. What fits counts the whole prompt, template and BOS included, and
  /// the longest answer. Throws Error, naming task and length, where not even the smallest does.
  Sample make(const Point& point) const;

  const Source& source() const { return source_; }

 private:
  const Vocab& vocab_;
  Source source_;
  PromptForm form_;
  uint64_t seed_;
};

/// RULER's row of a sample: index, input, outputs, length, length_w_model_temp, answer_prefix; with task and
/// max_seq_length before them.
nlohmann::ordered_json to_json(const Point& point, const Sample& sample);

/// An answer as RULER scores it: control characters are line breaks, and none of them, nor blanks, are at its
/// ends.
std::string postprocess(std::string_view answer);

/// 0 to 100: string_match_all or string_match_part of one post-processed answer. Case does not matter.
double score(Match match, std::string_view answer, std::span<const std::string> outputs);

/// What one policy made of one point.
struct Cell {
  std::string answer;
  double score = 0;  ///< 0 to 100
  double kept_share = 0;
};

struct RunOptions {
  TaskChoice task = TaskChoice::parse("given");  ///< what is given is the RULER task's; told from the input
  JsonlLog* log = nullptr;                       ///< one row a cell; cells that it has are not run again
  std::string setup;                             ///< tells runs with other models, sources or seeds apart
  std::function<bool()> cancelled;
  /// Work in prompt tokens; cells of earlier runs are not part of it.
  std::function<void(int64_t done, int64_t total)> progress;
  std::function<void(const Point& point, const std::string& error)> failed;
};

/// By contender, each by point; none where no sample could be made. The contenders of a point share one
/// prefill. Where it is cancelled, points that are not finished have no cells.
std::vector<std::vector<std::optional<Cell>>> run(Engine& engine, const Model& model, const Samples& samples,
                                                  std::span<const Point> points,
                                                  std::span<const Contender> contenders,
                                                  const RunOptions& options);

/// Means of one contender, task and length.
struct Mean {
  int64_t samples = 0;
  int64_t empty = 0;  ///< answers without text, RULER's "nulls"
  double score = 0;   ///< 0 to 100
  double kept_share = 0;
};

/// Over the points of that task and length; none if none of them has a cell.
std::optional<Mean> mean_of(std::span<const Point> points, std::span<const std::optional<Cell>> cells,
                            const TaskInfo& task, int64_t length);

}  // namespace windowkv::eval::ruler
