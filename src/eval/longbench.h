#pragma once

#include <array>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/answer.h"
#include "eval/contender.h"
#include "eval/jsonl_log.h"
#include "eval/metrics.h"
#include "eval/task_choice.h"
#include "windowkv/engine.h"

/// LongBench (Bai et al., 2024) and suites in its format: JSON lines of questions over long texts.
namespace windowkv::eval {

/// How LongBench runs and scores one of its datasets.
struct Dataset {
  std::string_view name;
  std::string_view language;
  Metric metric;
  int64_t max_new_tokens;
  Task task;                ///< the group the WindowKV paper puts it in
  bool chat;                ///< the chat template is applied
  bool first_line;          ///< only the answer's first line is scored
  bool newline_ends;        ///< the newline token ends the answer, but neither it nor an end is the first
  std::string_view prompt;  ///< {context} and {input} stand for the row's
};

/// The 21 datasets, in the benchmark's order.
std::span<const Dataset> longbench_datasets();
/// Null for a name that is none of them. LongBench-E's, "qasper_e", are run as their namesakes.
const Dataset* find_dataset(std::string_view name);

/// One question.
struct Sample {
  std::string dataset;
  std::string id;
  std::string prompt;         ///< before the chat template
  std::string answer_prefix;  ///< behind all of it: how the answer begins (RULER's)
  std::vector<std::string> answers;
  std::vector<std::string> all_classes;
  Metric metric = Metric::kQaF1;
  int64_t max_new_tokens = 0;
  Task task = Task::kLocalization;
  bool chat = false;
  /// The row brought the exact prompt: it is cut only where a length is asked for, and where it is to be
  /// `chat` gets the template unless it has one.
  bool own_prompt = false;
  bool first_line = false;
  bool newline_ends = false;  ///< see Dataset
  std::vector<std::string> stop;
  std::optional<int64_t> length;  ///< LongBench-E's rows only: words of the context, which they are binned by
};

/// A row that could not be used, and why.
struct BrokenRow {
  std::string file;
  size_t line = 0;
  std::string what;
  std::string text() const;  ///< "file:line: what"
};

struct LoadOptions {
  std::vector<std::string> datasets;  ///< only these; empty: all
  int64_t limit = -1;                 ///< rows a dataset, the first; -1: all
  bool longbench_e = false;           ///< of folders, the files of LongBench-E and no others; else those not
};

struct Samples {
  std::vector<Sample> samples;
  std::vector<BrokenRow> broken;

  /// A line a file with broken rows: the first of them, and how many more there are.
  std::vector<std::string> broken_files() const;
};

/// Reads files, and the *.jsonl of folders in the order of their names. A file named "qasper_e.jsonl" is
/// LongBench-E's, and so are its rows: their dataset is "qasper_e". Rows are LongBench's (`_id, dataset,
/// context, input, answers, all_classes`), or bring their own `prompt` and, where the dataset is none of
/// LongBench's, `metric, max_new_tokens, task`. Own prompts are taken as they are, chat marks included; those
/// that end within a line are completed to the end of that line. A row without `dataset` is of the one its
/// file is named after. RULER's rows (`task, index, input, answer_prefix, outputs`), as `windowkv ruler
/// --generate-only` writes them, are of the dataset that their task is called. Of a folder, only files that
/// may hold a wanted dataset are opened: those named after one, and, unless each has such a file, those whose
/// names are no dataset's, and those that hold results (JsonlLog) are passed over. Rows that are broken, or
/// repeat an _id of their dataset, are left out and listed. Throws Error where a path or a wanted dataset is
/// not there.
Samples load_samples(std::span<const std::string> paths, const LoadOptions& options = {});

/// How the sample's answer is generated: greedily, to its length, with its stop rules.
GenerateOptions sample_generation(const Vocab& vocab, const Sample& sample);

/// 0 to 100.
double score(const Sample& sample, std::string_view prediction);

/// The sample's prompt in tokens, with the chat template where the dataset and the model have it. As
/// LongBench does, a prompt of more than `max_length` tokens (the template not counted) loses its middle.
/// 0 stands for the most that leaves room for template and answer in the trained context, and for no limit
/// where the sample has its own prompt.
std::vector<Token> sample_tokens(const Model& model, const Sample& sample, int64_t max_length = 0);

/// What became of a sample.
struct Outcome {
  std::optional<double> score;  ///< 0 to 100; none where the sample failed
  std::string error;            ///< why it failed
  double kept_share = 0;        ///< KV bytes kept of those of all prompt tokens
};

struct LongbenchOptions {
  int64_t max_length = 0;                        ///< see sample_tokens
  TaskChoice task = TaskChoice::parse("given");  ///< what is given is the row's or its dataset's
  /// Where results go as they come, and those of earlier runs are taken from. Its keys are
  /// "dataset/_id setup"; failed samples are recorded, and tried again by the next run.
  JsonlLog* log = nullptr;
  std::string setup;  ///< tells runs under other settings apart
  std::function<bool()> cancelled;
  /// Work in bytes of prompts; samples of earlier runs are not part of it.
  std::function<void(int64_t done, int64_t total)> progress;
  std::function<void(const Sample& sample, const std::string& error)> failed;
};

/// Answers every sample under the contender's policy, greedily. An error on one is its outcome and no reason
/// to stop. Where it is cancelled, the outcomes are of the samples before.
std::vector<Outcome> run_samples(Engine& engine, const Model& model, std::span<const Sample> samples,
                                 const Contender& contender, const LongbenchOptions& options = {});

/// The lengths that LongBench-E reports apart: under 4,000 words, under 8,000, and above.
inline constexpr std::array<std::string_view, 3> kLengthBins = {"0-4k", "4-8k", "8k+"};
using BinScores = std::array<std::optional<double>, kLengthBins.size()>;

/// One dataset's line of the table.
struct DatasetScore {
  std::string dataset;
  Task task = Task::kLocalization;
  int64_t rows = 0;  ///< scored ones
  int64_t failed = 0;
  std::optional<double> score;  ///< mean over rows; none where all failed
  double kept_share = 0;        ///< mean over rows
  BinScores bins;               ///< mean over the rows of a length; none without such rows
};

/// Averages are over datasets, each counting once, as LongBench's are.
struct LongbenchSummary {
  std::vector<DatasetScore> datasets;  ///< in the order of the samples
  std::optional<double> localization, aggregation, overall;
  BinScores bins;  ///< over the datasets that have rows of the length

  bool has_bins() const;  ///< whether there are rows of LongBench-E
  double kept_share = 0;  ///< mean over rows
  int64_t rows = 0, failed = 0;

  nlohmann::ordered_json json() const;
};

LongbenchSummary summarize(std::span<const Sample> samples, std::span<const Outcome> outcomes);

}  // namespace windowkv::eval
