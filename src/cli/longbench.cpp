// windowkv longbench: LongBench, or a suite in its format, under one cache.
#include "eval/longbench.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/eval_report.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/provenance.h"
#include "cli/report.h"
#include "cli/resumable.h"
#include "cli/samples.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

struct LongbenchFlags {
  ModelFlags model;
  PolicyFlags policy;
  std::vector<std::string> data;
  std::vector<std::string> datasets;
  int64_t limit = -1;
  bool longbench_e = false;
  int64_t max_length = 0;
  std::string out;
  std::string json;
  const CLI::App* command = nullptr;
};

/// Which results may be taken from an earlier run: a name for people, and a hash of all that an answer
/// depends on.
std::string setup_text(const LongbenchFlags& flags, const Model& model, const std::string& policy) {
  const auto all = fmt::format("{}{} {} {} {}", fnv1a64_of_file(model.path()), calibration_key(model),
                               flags.command->get_option_group("KV cache")->config_to_str(true),
                               flags.policy.task.text(), flags.max_length);
  return fmt::format("{} {}", policy, fnv1a64(all));
}

std::string summary_table(const eval::LongbenchSummary& summary) {
  std::vector<std::vector<std::string>> rows = {{"dataset", "group", "samples", "failed", "score", "kept"}};
  auto add_bins = [&](const eval::BinScores& bins) {
    for (const auto& score : bins)
      if (summary.has_bins()) rows.back().push_back(two_digits(score));
  };
  if (summary.has_bins()) rows[0].insert(rows[0].end(), eval::kLengthBins.begin(), eval::kLengthBins.end());
  for (const auto& d : summary.datasets) {
    rows.push_back({d.dataset, std::string(to_string(d.task)), fmt::format("{}", d.rows),
                    fmt::format("{}", d.failed), two_digits(d.score), d.score ? percent(d.kept_share) : "-"});
    add_bins(d.bins);
  }
  if (summary.localization) rows.push_back({"localization", "", "", "", two_digits(summary.localization)});
  if (summary.aggregation) rows.push_back({"aggregation", "", "", "", two_digits(summary.aggregation)});
  rows.push_back({"overall", "", fmt::format("{}", summary.rows), fmt::format("{}", summary.failed),
                  two_digits(summary.overall), summary.rows > 0 ? percent(summary.kept_share) : "-"});
  add_bins(summary.bins);
  return table_text(rows);
}

nlohmann::ordered_json summary_json(const LongbenchFlags& flags, const Model& model,
                                    const eval::Contender& contender, const eval::Samples& data,
                                    const eval::LongbenchSummary& summary) {
  nlohmann::ordered_json out = {{"model", std::filesystem::path(model.path()).filename().string()},
                                {"type", model.weight_type()},
                                {"kv", contender.kv},
                                {"kv_budget", contender.budget},
                                {"task", flags.policy.task.task},
                                {"preset", flags.policy.preset},
                                {"max_length", flags.max_length}};
  out.update(summary.json());
  out["skipped_rows"] = nlohmann::ordered_json::array();
  for (const auto& row : data.broken) out["skipped_rows"].push_back(row.text());
  return out;
}

/// Whether the cache dropped nothing of any sample, although it was to.
bool kept_whole(const eval::Contender& contender, std::span<const eval::Outcome> outcomes) {
  if (contender.kv == "full") return false;
  const auto scored = [](const eval::Outcome& o) { return o.score.has_value(); };
  return std::ranges::any_of(outcomes, scored) &&
         std::ranges::all_of(outcomes, [&](const auto& o) { return !scored(o) || o.kept_share >= 1; });
}

void longbench(const LongbenchFlags& flags) {
  catch_interrupts();
  const auto file = open_output(flags.json);
  const auto task = flags.policy.task.choice();
  const auto data = read_samples(flags.data, {flags.datasets, flags.limit, flags.longbench_e});
  if (data.samples.empty()) throw Error("no usable sample in the files given with --data");
  const auto model = flags.model.load();
  model->vocab();  // throws where there is none
  const bool full = flags.policy.kv == "full";
  const auto contender = contender_of(full ? "full" : flags.policy.kv + " " + flags.policy.budget,
                                      flags.policy, model->hparams());
  const auto log = open_log(flags.out);

  Engine engine(*model, flags.model.engine());
  Progress progress("longbench");
  eval::LongbenchOptions options;
  options.max_length = flags.max_length;
  options.task = task;
  options.log = log.get();
  options.setup = setup_text(flags, *model, contender.name);
  options.cancelled = interrupted;
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  options.failed = [&](const eval::Sample& sample, const std::string& error) {
    progress.clear();
    warn(fmt::format("{}/{}: {}", sample.dataset, sample.id, error));
  };
  const auto outcomes = eval::run_samples(engine, *model, data.samples, contender, options);
  progress.clear();
  const auto summary = eval::summarize(std::span(data.samples).first(outcomes.size()), outcomes);
  if (!outcomes.empty()) print(summary_table(summary));
  end_if_interrupted(outcomes.size(), data.samples.size(), "samples", {flags.json},
                     how_to_continue(flags.out, log.get()));
  if (!flags.policy.budget_given() && kept_whole(contender, outcomes))
    note("all prompts were kept whole, as those below the default budget's floor are; --kv-budget 12% drops");
  if (file) file->commit(json_text(summary_json(flags, *model, contender, data, summary), 2));
  if (summary.failed > 0 || !data.broken.empty()) throw ExitWith{kLeftOutExit};
}

}  // namespace

void add_longbench(CLI::App& app) {
  auto flags = std::make_shared<LongbenchFlags>();
  auto* command = app.add_subcommand("longbench", "Score a cache policy on LongBench or data in its format");
  flags->command = command;
  command->footer(
      "Samples are LongBench's (github.com/THUDM/LongBench), run and scored as LongBench does, or bring\n"
      "their own: {\"prompt\": ..., \"answers\": [...], \"metric\": \"rouge_l\", \"max_new_tokens\": 128,\n"
      "\"task\": \"aggregation\"}, and \"dataset\" and \"_id\" to tell them apart (docs/fidelity.md); such\n"
      "prompts are truncated only with --max-length. Scores are 0 to 100, for the best match among a\n"
      "sample's answers; averages are over datasets. Chinese text is scored by character rather than by\n"
      "jieba's words, so those scores cannot be compared with published ones. LongBench-E (--e) is also\n"
      "averaged by context length: under 4,000 words, under 8,000, and above.\n"
      "Exit code 0: all samples ran; 3: some were broken or failed, and are listed; 130: Ctrl-C.\n"
      "Examples:\n"
      "  windowkv longbench -m model.gguf --data LongBench/data --kv-budget 12% --out results.jsonl\n"
      "  windowkv longbench -m model.gguf --data LongBench/data --datasets hotpotqa,gov_report --limit 50 "
      "--kv full");
  flags->model.add_to(*command);
  auto* data = command->add_option_group("Data");
  data->add_option("--data", flags->data, "files of JSON lines, or folders of *.jsonl")
      ->required()
      ->type_name("PATH");
  data->add_option("--datasets", flags->datasets, "run only these datasets")
      ->delimiter(',')
      ->type_name("NAME,...");
  data->add_flag("--e", flags->longbench_e,
                 "from folders, run only LongBench-E's files (qasper_e.jsonl, ...)");
  add_limit(*data, flags->limit, "run only the first N samples of each dataset");
  add_max_length(*data, flags->max_length);
  flags->policy.add_to(*command, /*fixed_policy=*/false, /*rows=*/true);
  auto* output = command->add_option_group("Output");
  output
      ->add_option("--out", flags->out,
                   "write each result as a JSON line as soon as it is ready; running the same command again "
                   "continues from the file")
      ->type_name("FILE");
  output->add_option("--json", flags->json, "write the table as JSON")->type_name("FILE");
  command->callback([flags] { longbench(*flags); });
}

}  // namespace windowkv::cli
