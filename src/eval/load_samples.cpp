// The rows of files as samples: LongBench's, those that bring their own prompt, and RULER's; how they are
// scored.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "eval/json_row.h"
#include "eval/jsonl_log.h"
#include "eval/longbench.h"
#include "eval/ruler/tasks.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

using nlohmann::json;

/// Whether a name, of a dataset or a file without its ending, is one of LongBench-E.
bool is_longbench_e(std::string_view name) {
  return name.ends_with("_e") && find_dataset(name) != nullptr;
}

std::string name_of(const std::string& file) {
  return std::filesystem::path(file).stem().string();
}

/// Drops the files of a folder that hold none of the datasets wanted, by their names.
void drop_unwanted(std::vector<std::string>& files, const std::vector<std::string>& wanted) {
  if (wanted.empty()) return;
  auto is_wanted = [&](const std::string& name) { return std::ranges::find(wanted, name) != wanted.end(); };
  std::set<std::string> named;
  for (const auto& file : files)
    if (is_wanted(name_of(file))) named.insert(name_of(file));
  const bool all_named = named.size() == std::set(wanted.begin(), wanted.end()).size();
  std::erase_if(files, [&](const std::string& file) {
    const auto name = name_of(file);
    return !is_wanted(name) && (all_named || find_dataset(name) != nullptr);
  });
}

struct File {
  std::string path;
  bool of_folder = false;  ///< not named itself
};

std::vector<File> files_of(std::span<const std::string> paths, const LoadOptions& options) {
  const bool longbench_e = options.longbench_e;
  std::vector<File> files;
  for (const auto& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      files.push_back({path});
      continue;
    }
    std::vector<std::string> found;
    bool others = false;
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      const auto file = entry.path().string();
      if (entry.path().extension() != ".jsonl") continue;
      if (is_longbench_e(name_of(file)) == longbench_e)
        found.push_back(file);
      else
        others = true;
    }
    if (found.empty())
      throw Error(fmt::format("{}: no .jsonl file{} in this folder{}", path,
                              longbench_e ? " of LongBench-E" : "",
                              others && !longbench_e ? " but LongBench-E's; they are run with --e" : ""));
    std::sort(found.begin(), found.end());  // folders list their files in no order
    drop_unwanted(found, options.datasets);
    for (auto& file : found) files.push_back({std::move(file), /*of_folder=*/true});
  }
  return files;
}

const json& field(const json& row, const char* name) {
  const auto found = row.find(name);
  if (found == row.end()) throw Error(fmt::format("no field \"{}\"", name));
  return *found;
}

std::vector<std::string> list_field(const json& row, const char* name) {
  const auto& value = field(row, name);
  if (!value.is_array() ||
      !std::all_of(value.begin(), value.end(), [](const json& v) { return v.is_string(); }))
    throw Error(fmt::format("\"{}\" is not a list of strings", name));
  return value.get<std::vector<std::string>>();
}

/// The template with the row's fields in place, each replaced once: texts may hold braces of their own.
std::string fill(std::string_view pattern, const json& row) {
  std::string out;
  while (!pattern.empty()) {
    const size_t open = std::min(pattern.find('{'), pattern.size());
    out += pattern.substr(0, open);
    pattern.remove_prefix(open);
    if (pattern.empty()) break;
    const size_t close = pattern.find('}');
    out += text_field(row, std::string(pattern.substr(1, close - 1)).c_str());
    pattern.remove_prefix(close + 1);
  }
  return out;
}

/// What a row of its own says over what its dataset does.
void read_own(const json& row, bool known, Sample& sample) {
  sample.own_prompt = true;
  sample.chat = false;
  sample.prompt = text_field(row, "prompt");
  if (!known || row.contains("metric")) sample.metric = parse_metric(text_field(row, "metric"));
  if (!known || row.contains("task")) sample.task = parse_task(text_field(row, "task"));
  if (!known || row.contains("max_new_tokens")) {
    const auto& value = field(row, "max_new_tokens");
    if (!value.is_number_integer() || value.get<int64_t>() < 1)
      throw Error("\"max_new_tokens\" is not a number of tokens");
    sample.max_new_tokens = value.get<int64_t>();
  }
  if (!sample.prompt.ends_with('\n')) sample.stop = {"\n"};
}

bool is_ruler(const json& row) {
  return row.contains("input") && row.contains("outputs") && !row.contains("_id");
}

/// A row of RULER's files. `file`: what tells the task where the row does not.
Sample read_ruler(const json& row, std::string_view file) {
  Sample sample;
  sample.dataset = row.contains("task") ? text_field(row, "task") : std::string(file);
  const auto& task = ruler::find_task(sample.dataset);
  const auto& index = field(row, "index");
  if (!index.is_number_integer()) throw Error("\"index\" is not a number");
  const auto length = row.find("max_seq_length");
  sample.id = length == row.end() ? index.dump() : length->dump() + "-" + index.dump();
  sample.prompt = text_field(row, "input");
  if (row.contains("answer_prefix")) sample.answer_prefix = text_field(row, "answer_prefix");
  sample.answers = list_field(row, "outputs");
  sample.metric = task.match == ruler::Match::kPart ? Metric::kStringMatchPart : Metric::kStringMatchAll;
  sample.max_new_tokens = task.tokens_to_generate;
  sample.task = task.task;
  sample.chat = sample.own_prompt = true;
  return sample;
}

/// The length that a row of LongBench-E is binned by.
int64_t length_field(const json& row) {
  const auto& value = field(row, "length");
  if (!value.is_number_integer() || value.get<int64_t>() < 0)
    throw Error("\"length\" is not a number of words");
  return value.get<int64_t>();
}

/// A row that is LongBench's, or of its kind; one of its own need not say its dataset, which is then its
/// file's name, nor its id, which is then its line's number.
Sample read_longbench(const json& row, std::string_view file, size_t line) {
  Sample sample;
  const bool own = row.contains("prompt");
  sample.dataset = row.contains("dataset") || (find_dataset(file) == nullptr && !own)
                       ? text_field(row, "dataset")
                       : std::string(file);
  sample.id = row.contains("_id") || !own ? text_field(row, "_id") : std::to_string(line);
  if (is_longbench_e(file) && file == sample.dataset + "_e") sample.dataset = file;
  if (is_longbench_e(sample.dataset)) sample.length = length_field(row);
  const auto* dataset = find_dataset(sample.dataset);
  if (dataset != nullptr) {
    sample.metric = dataset->metric;
    sample.max_new_tokens = dataset->max_new_tokens;
    sample.task = dataset->task;
    sample.chat = dataset->chat;
    sample.first_line = dataset->first_line;
    sample.newline_ends = dataset->newline_ends;
  }
  if (row.contains("prompt")) {
    read_own(row, dataset != nullptr, sample);
  } else if (dataset != nullptr) {
    sample.prompt = fill(dataset->prompt, row);
  } else {
    throw Error(fmt::format("dataset \"{}\" is not one of LongBench's, and the sample has no \"prompt\"",
                            sample.dataset));
  }
  sample.answers = list_field(row, "answers");
  if (row.contains("all_classes") && !row["all_classes"].is_null())
    sample.all_classes = list_field(row, "all_classes");
  if (dataset != nullptr && !sample.own_prompt && sample.metric == Metric::kClassification &&
      sample.all_classes.empty())
    throw Error("no \"all_classes\"");
  return sample;
}

/// `file`: name of the row's file, without its ending.
Sample read_sample(std::string_view line, std::string_view file, size_t number) {
  const auto row = json_row(line);
  auto sample = is_ruler(row) ? read_ruler(row, file) : read_longbench(row, file, number);
  if (sample.prompt.empty()) throw Error("the prompt is empty");
  if (sample.answers.empty()) throw Error("no answers");
  score(sample, "");  // throws for answers that the metric cannot read
  return sample;
}

/// Whether a file of a folder holds results, which are often put beside the data.
bool is_results(std::string_view content, std::string_view name) {
  const auto first = content.substr(0, content.find('\n'));
  if (!JsonlLog::begins_row(first)) return false;
  try {
    read_sample(first, name, 1);
    return false;
  } catch (const Error&) {
    return true;
  }
}

/// Collects the rows of files, as far as the options want them.
class Loader {
 public:
  explicit Loader(const LoadOptions& options) : options_(options) {}

  void read(const File& file) {
    const auto content = read_file(file.path);
    const auto name = name_of(file.path);
    if (file.of_folder && is_results(content, name)) return;
    for (const auto& [number, line] : lines_of(content)) {
      try {
        add(read_sample(line, name, static_cast<size_t>(number)));
      } catch (const Error& e) {
        result_.broken.push_back({file.path, number, e.what()});
      }
    }
  }

  Samples result() {
    for (const auto& name : options_.datasets)
      if (!rows_.contains(name)) {
        std::vector<std::string> present;
        present.reserve(rows_.size());
        for (const auto& entry : rows_) present.push_back(entry.first);
        throw Error(fmt::format("no samples of dataset \"{}\"; the files have: {}", name,
                                !present.empty() ? fmt::format("{}", fmt::join(present, ", "))
                                : result_.broken.empty()
                                    ? "none"
                                    : "none that can be read: " + result_.broken.front().what));
      }
    return std::move(result_);
  }

 private:
  void add(Sample sample) {
    auto& rows = rows_[sample.dataset];
    if (!wanted(sample.dataset)) return;
    if (options_.limit >= 0 && static_cast<int64_t>(rows.size()) >= options_.limit) return;
    if (!rows.insert(sample.id).second)
      throw Error(fmt::format("another sample of {} has the _id \"{}\"", sample.dataset, sample.id));
    result_.samples.push_back(std::move(sample));
  }

  bool wanted(const std::string& dataset) const {
    return options_.datasets.empty() ||
           std::find(options_.datasets.begin(), options_.datasets.end(), dataset) != options_.datasets.end();
  }

  const LoadOptions& options_;
  std::map<std::string, std::set<std::string>> rows_;  // ids taken, by dataset
  Samples result_;
};

}  // namespace

std::string BrokenRow::text() const {
  return fmt::format("{}:{}: {}", file, line, what);
}

std::vector<std::string> Samples::broken_files() const {
  std::vector<std::string> files;
  for (auto row = broken.begin(); row != broken.end();) {
    const auto next = std::find_if(row, broken.end(), [&](const auto& r) { return r.file != row->file; });
    files.push_back(row->text());
    if (const auto more = next - row - 1; more > 0)
      files.back() += more == 1 ? " (1 more line of this file is broken)"
                                : fmt::format(" ({} more lines of this file are broken)", more);
    row = next;
  }
  return files;
}

double score(const Sample& sample, std::string_view prediction) {
  if (sample.first_line) prediction = first_line(prediction);
  return 100 * best_score(sample.metric, prediction, sample.answers, sample.all_classes);
}

Samples load_samples(std::span<const std::string> paths, const LoadOptions& options) {
  Loader loader(options);
  for (const auto& file : files_of(paths, options)) loader.read(file);
  return loader.result();
}

}  // namespace windowkv::eval
