#include "eval/longbench.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "support/file.h"
#include "support/utf8.h"
#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

/// Whether a name, of a dataset or a file without its ending, is one of LongBench-E.
bool is_longbench_e(std::string_view name) {
  return name.ends_with("_e") && find_dataset(name) != nullptr;
}

std::string name_of(const std::string& file) {
  return std::filesystem::path(file).stem().string();
}

std::vector<std::string> files_of(std::span<const std::string> paths, bool longbench_e) {
  std::vector<std::string> files;
  for (const auto& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      files.push_back(path);
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
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

const json& field(const json& row, const char* name) {
  const auto found = row.find(name);
  if (found == row.end()) throw Error(fmt::format("no field \"{}\"", name));
  return *found;
}

std::string text_field(const json& row, const char* name) {
  const auto& value = field(row, name);
  if (!value.is_string()) throw Error(fmt::format("\"{}\" is not a text", name));
  return value.get<std::string>();
}

std::vector<std::string> list_field(const json& row, const char* name) {
  const auto& value = field(row, name);
  if (!value.is_array() ||
      !std::all_of(value.begin(), value.end(), [](const json& v) { return v.is_string(); }))
    throw Error(fmt::format("\"{}\" is not a list of texts", name));
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

/// The length that a row of LongBench-E is binned by.
int64_t length_field(const json& row) {
  const auto& value = field(row, "length");
  if (!value.is_number_integer() || value.get<int64_t>() < 0)
    throw Error("\"length\" is not a number of words");
  return value.get<int64_t>();
}

/// `file`: name of the row's file, without its ending.
Sample read_sample(std::string_view line, std::string_view file) {
  const auto row = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!row.is_object()) throw Error("not a JSON object");
  Sample sample;
  sample.dataset = text_field(row, "dataset");
  sample.id = text_field(row, "_id");
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
    throw Error(
        fmt::format("dataset \"{}\" is none of LongBench's and the row has no \"prompt\"", sample.dataset));
  }
  if (sample.prompt.empty()) throw Error("the prompt is empty");
  sample.answers = list_field(row, "answers");
  if (sample.answers.empty()) throw Error("no answers");
  if (row.contains("all_classes") && !row["all_classes"].is_null())
    sample.all_classes = list_field(row, "all_classes");
  if (dataset != nullptr && !sample.own_prompt && sample.metric == Metric::kClassification &&
      sample.all_classes.empty())
    throw Error("no \"all_classes\"");
  score(sample, "");  // throws for answers that the metric cannot read
  return sample;
}

/// Collects the rows of files, as far as the options want them.
class Loader {
 public:
  explicit Loader(const LoadOptions& options) : options_(options) {}

  void read(const std::string& file) {
    const auto content = read_file(file);
    const auto name = name_of(file);
    for (const auto& [number, line] : lines_of(content)) {
      try {
        add(read_sample(line, name));
      } catch (const Error& e) {
        result_.broken.push_back({file, number, e.what()});
      }
    }
  }

  Samples result() {
    for (const auto& name : options_.datasets)
      if (!rows_.contains(name)) {
        std::vector<std::string> present;
        for (const auto& entry : rows_) present.push_back(entry.first);
        throw Error(
            fmt::format("no rows of dataset \"{}\"; the files have: {}", name, fmt::join(present, ", ")));
      }
    return std::move(result_);
  }

 private:
  void add(Sample sample) {
    auto& rows = rows_[sample.dataset];
    if (!wanted(sample.dataset)) return;
    if (options_.limit >= 0 && static_cast<int64_t>(rows.size()) >= options_.limit) return;
    if (!rows.insert(sample.id).second)
      throw Error(fmt::format("another row of {} has the _id \"{}\"", sample.dataset, sample.id));
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

int64_t default_length(const Model& model, const Sample& sample, bool chat) {
  constexpr int64_t kMargin = 16;  // text cut and put together again may have a few tokens more
  const auto& vocab = model.vocab();
  int64_t length = model.hparams().n_ctx_train - sample.max_new_tokens;
  if (chat)
    length -=
        static_cast<int64_t>(vocab.tokenize(vocab.apply_chat_template({{"user", "x"}})).size()) + kMargin;
  return length;
}

/// The text of the first and last tokens; characters that the cut divides are left out.
std::string middle_cut(const Vocab& vocab, const std::vector<Token>& tokens, int64_t limit) {
  const int64_t half = limit / 2;
  auto head = vocab.text({tokens.begin(), tokens.begin() + half});
  auto tail = vocab.text({tokens.end() - half, tokens.end()});
  head.resize(head.size() - utf8_incomplete_tail(head));
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; };
  tail.erase(tail.begin(), std::find_if_not(tail.begin(), tail.end(), continues));
  return head + tail;
}

std::string key_of(const Sample& sample, const std::string& setup) {
  return fmt::format("{}/{} {}", sample.dataset, sample.id, setup);
}

Outcome outcome_of(const ordered_json& row) {
  if (row.contains("error")) return {.score = std::nullopt, .error = row.at("error").get<std::string>()};
  return {.score = row.at("score").get<double>(), .kept_share = row.at("kept_share").get<double>()};
}

ordered_json row_of(const std::string& key, const Sample& sample, const Contender& contender,
                    const TaskDecision& task) {
  return {{"key", key},
          {"dataset", sample.dataset},
          {"_id", sample.id},
          {"kv", contender.kv},
          {"kv_budget", contender.budget},
          {"task", to_string(task.task)},
          {"task_source", to_string(task.source)},
          {"task_probability", task.probability}};
}

/// The result of an earlier run; null where there is none.
const ordered_json* earlier(const JsonlLog* log, const std::string& key) {
  return log == nullptr ? nullptr : log->find(key);
}

ordered_json answer_row(ordered_json row, const Sample& sample, const Answer& answer) {
  row["score"] = score(sample, answer.text);
  row["kept_share"] = answer.kept_share();
  row["prediction"] = answer.text;
  row["answers"] = sample.answers;
  row["prompt_tokens"] = answer.prompt_tokens;
  row["generated_tokens"] = answer.generated_tokens;
  row["kv_bytes"] = answer.kv.kept;
  row["kv_bytes_full"] = answer.kv.full;
  return row;
}

/// The row of the log for a sample run now: its answer, or, under a key of its own so that the sample is not
/// taken for done, its error.
ordered_json run_sample(Engine& engine, const Model& model, const Sample& sample, const Contender& contender,
                        const std::string& key, const LongbenchOptions& options,
                        const std::function<void(int64_t, int64_t)>& progress) {
  const auto task = task_for(contender, options.task, sample.task, sample.prompt);
  std::string error;
  try {
    auto generation = sample_generation(model.vocab(), sample);
    generation.cancelled = options.cancelled;
    const auto tokens = sample_tokens(model, sample, options.max_length);
    const std::unique_ptr<Policy> policies[] = {contender.make(task.task)};
    auto prefill = prefill_shared(engine, tokens, policies, generation, progress);
    return answer_row(row_of(key, sample, contender, task), sample,
                      answer(engine, model, tokens, prefill, 0, generation));
  } catch (const Cancelled&) {
    throw;
  } catch (const std::bad_alloc&) {
    error = "out of memory";
  } catch (const std::exception& e) {
    error = e.what();
  }
  if (options.failed) options.failed(sample, error);
  auto row = row_of("failed " + key, sample, contender, task);
  row["error"] = error;
  return row;
}

ordered_json number(const std::optional<double>& value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

ordered_json bins_json(const BinScores& bins) {
  ordered_json out;
  for (size_t b = 0; b < bins.size(); ++b) out[std::string(kLengthBins[b])] = number(bins[b]);
  return out;
}

std::optional<double> mean(const std::vector<double>& values) {
  if (values.empty()) return std::nullopt;
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

}  // namespace

std::string BrokenRow::text() const {
  return fmt::format("{}:{}: {}", file, line, what);
}

Samples load_samples(std::span<const std::string> paths, const LoadOptions& options) {
  Loader loader(options);
  for (const auto& file : files_of(paths, options.longbench_e)) loader.read(file);
  return loader.result();
}

GenerateOptions sample_generation(const Vocab& vocab, const Sample& sample) {
  GenerateOptions options;
  options.max_tokens = sample.max_new_tokens;
  options.stop = sample.stop;
  if (sample.newline_ends) {
    // As pred.py has it: the last token that the text "\n" is made of, and min_length one above the prompt's.
    options.end_tokens = {vocab.tokenize("\n").back()};
    options.min_tokens = 1;
  }
  return options;
}

double score(const Sample& sample, std::string_view prediction) {
  if (sample.first_line) prediction = first_line(prediction);
  return 100 * best_score(sample.metric, prediction, sample.answers, sample.all_classes);
}

std::vector<Token> sample_tokens(const Model& model, const Sample& sample, int64_t max_length) {
  const auto& vocab = model.vocab();
  const bool chat = sample.chat && vocab.has_chat_template();
  auto tokens = vocab.tokenize(sample.prompt);
  const auto n = static_cast<int64_t>(tokens.size());
  const bool unlimited = max_length == 0 && sample.own_prompt;
  const int64_t limit = unlimited ? n : max_length > 0 ? max_length : default_length(model, sample, chat);
  if (n > limit && limit < 2)
    throw Error(fmt::format("an answer of {} tokens leaves no room for a prompt in the trained context of {}",
                            sample.max_new_tokens, model.hparams().n_ctx_train));
  if (!chat) return truncate_middle(std::move(tokens), limit);
  return vocab.tokenize(
      vocab.apply_chat_template({{"user", n > limit ? middle_cut(vocab, tokens, limit) : sample.prompt}}));
}

std::vector<Outcome> run_samples(Engine& engine, const Model& model, std::span<const Sample> samples,
                                 const Contender& contender, const LongbenchOptions& options) {
  int64_t done = 0, total = 0;
  for (const auto& sample : samples)
    if (earlier(options.log, key_of(sample, options.setup)) == nullptr)
      total += static_cast<int64_t>(sample.prompt.size());

  std::vector<Outcome> outcomes;
  for (const auto& sample : samples) {
    const auto key = key_of(sample, options.setup);
    if (const auto* row = earlier(options.log, key)) {
      outcomes.push_back(outcome_of(*row));
      continue;
    }
    if (options.cancelled && options.cancelled()) break;
    ordered_json row;
    try {
      row = run_sample(engine, model, sample, contender, key, options, [&](int64_t step, int64_t steps) {
        if (options.progress)
          options.progress(done + static_cast<int64_t>(sample.prompt.size()) * step / (steps + 1), total);
      });
    } catch (const Cancelled&) {
      break;
    }
    outcomes.push_back(outcome_of(row));
    if (options.log != nullptr && !options.log->has(row.at("key"))) options.log->append(std::move(row));
    done += static_cast<int64_t>(sample.prompt.size());
    if (options.progress) options.progress(done, total);
  }
  return outcomes;
}

LongbenchSummary summarize(std::span<const Sample> samples, std::span<const Outcome> outcomes) {
  struct Values {
    std::vector<double> scores, kept;
    std::array<std::vector<double>, kLengthBins.size()> bins;
  };
  LongbenchSummary summary;
  std::map<std::string, Values> values;
  std::vector<double> kept;
  for (size_t i = 0; i < samples.size(); ++i) {
    const auto& name = samples[i].dataset;
    if (!values.contains(name)) summary.datasets.push_back({.dataset = name, .task = samples[i].task});
    auto& of_dataset = values[name];
    auto& line = *std::find_if(summary.datasets.begin(), summary.datasets.end(),
                               [&](const DatasetScore& d) { return d.dataset == name; });
    if (!outcomes[i].score) {
      ++line.failed, ++summary.failed;
      continue;
    }
    ++line.rows, ++summary.rows;
    of_dataset.scores.push_back(*outcomes[i].score);
    of_dataset.kept.push_back(outcomes[i].kept_share);
    if (const auto length = samples[i].length)
      of_dataset.bins[*length < 4000 ? 0 : *length < 8000 ? 1 : 2].push_back(*outcomes[i].score);
    kept.push_back(outcomes[i].kept_share);
  }
  std::vector<double> all, localization, aggregation;
  std::array<std::vector<double>, kLengthBins.size()> bins;
  for (auto& line : summary.datasets) {
    line.score = mean(values[line.dataset].scores);
    line.kept_share = mean(values[line.dataset].kept).value_or(0);
    if (!line.score) continue;
    all.push_back(*line.score);
    for (size_t b = 0; b < bins.size(); ++b) {
      line.bins[b] = mean(values[line.dataset].bins[b]);
      if (line.bins[b]) bins[b].push_back(*line.bins[b]);
    }
    (line.task == Task::kLocalization ? localization : aggregation).push_back(*line.score);
  }
  summary.localization = mean(localization);
  summary.aggregation = mean(aggregation);
  summary.overall = mean(all);
  for (size_t b = 0; b < bins.size(); ++b) summary.bins[b] = mean(bins[b]);
  summary.kept_share = mean(kept).value_or(0);
  return summary;
}

bool LongbenchSummary::has_bins() const {
  return std::any_of(bins.begin(), bins.end(), [](const auto& score) { return score.has_value(); });
}

ordered_json LongbenchSummary::json() const {
  ordered_json out = {{"datasets", ordered_json::array()}};
  for (const auto& d : datasets)
    out["datasets"].push_back({{"dataset", d.dataset},
                               {"group", to_string(d.task)},
                               {"rows", d.rows},
                               {"failed", d.failed},
                               {"score", number(d.score)},
                               {"kept_share", d.kept_share}});
  if (has_bins()) {
    for (size_t i = 0; i < datasets.size(); ++i) out["datasets"][i]["bins"] = bins_json(datasets[i].bins);
    out["bins"] = bins_json(bins);
  }
  out["localization"] = number(localization);
  out["aggregation"] = number(aggregation);
  out["overall"] = number(overall);
  out["kept_share"] = kept_share;
  out["rows"] = rows;
  out["failed"] = failed;
  return out;
}

}  // namespace windowkv::eval
