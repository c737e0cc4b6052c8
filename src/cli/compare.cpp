// windowkv compare: policies × budgets on the same samples.
#include "eval/compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/compare_report.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/provenance.h"
#include "cli/report.h"
#include "cli/resumable.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

struct CompareFlags {
  ModelFlags model;
  TaskFlags task;
  std::vector<std::string> data;
  std::vector<std::string> policies = {"windowkv", "windowkv:group=1:pyramid=flat",
                                       "snapkv",   "pyramidkv",
                                       "chunkkv",  "h2o",
                                       "tova",     "streaming-llm",
                                       "random"};
  std::vector<std::string> budgets = {"12%"};
  std::vector<std::string> datasets;
  int64_t limit = -1;
  int64_t max_length = 0;
  std::string out;
  std::string json;
  std::string markdown;
  std::string html;
};

std::vector<eval::Contender> contenders_of(const CompareFlags& flags, int n_layer) {
  std::vector<eval::Contender> list = {eval::make_contender("full", "100%", n_layer)};
  for (const auto& budget : flags.budgets)
    for (const auto& policy : flags.policies)
      if (policy != "full") list.push_back(eval::make_contender(policy, budget, n_layer));
  return list;
}

/// All that changes the results of a sample, so that a results file is only taken up by the same run.
std::string setup_of(const CompareFlags& flags, const std::string& model_hash) {
  return fnv1a64(fmt::format("{} | {} | {} | {} | {} | {}", model_hash, WINDOWKV_VERSION,
                             fmt::join(flags.policies, ","), fmt::join(flags.budgets, ","), flags.max_length,
                             flags.task.text()));
}

void compare(const CompareFlags& flags) {
  catch_interrupts();
  const auto json_file = open_output(flags.json);
  const auto markdown_file = open_output(flags.markdown);
  const auto html_file = open_output(flags.html);
  const auto log = open_log(flags.out);
  const auto task = flags.task.choice();

  const auto data = eval::load_samples(flags.data, {flags.datasets, flags.limit});
  for (const auto& row : data.broken) warn(row.text() + "; skipped");
  if (data.samples.empty()) throw Error("no sample to compare on in the files given with --data");
  const auto model = flags.model.load();
  const auto model_hash = fnv1a64_of_file(model->path());
  const auto contenders = contenders_of(flags, model->hparams().n_layer);
  Engine engine(*model, flags.model.engine());

  eval::CompareOptions options;
  options.max_length = flags.max_length;
  options.task = task;
  options.log = log.get();
  options.setup = setup_of(flags, model_hash);
  options.cancelled = interrupted;
  Progress progress("compare");
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  size_t failed = 0;
  options.failed = [&](const eval::Sample& sample, const std::string& error) {
    progress.clear();
    warn(fmt::format("{}/{}: {}", sample.dataset, sample.id, error));
    ++failed;
  };
  const auto measured = run_resumable(progress, flags.out, [&] {
    return eval::run_compare(engine, *model, data.samples, contenders, options);
  });
  if (failed == data.samples.size()) throw Error("every sample failed");
  const CompareReport report{eval::summarize_compare(data.samples, contenders, measured),
                             provenance(*model, model_hash), data.samples.size(), failed};
  print(table_text(compare_table(report)));
  if (json_file) json_file->commit(json_text(compare_json(report), 2));
  if (markdown_file) markdown_file->commit(compare_markdown(report));
  if (html_file) html_file->commit(compare_html(report));
}

}  // namespace

void add_compare(CLI::App& app) {
  auto flags = std::make_shared<CompareFlags>();
  auto* command = app.add_subcommand("compare", "Compare policies at equal budgets on the same samples");
  command->footer(
      "One prefill a sample serves all policies. Scores are 0 to 100; KL and top-1 compare next-token "
      "distributions with\n"
      "the full cache's along its own answer. Intervals are 95 % bootstraps. A policy may carry numbers:\n"
      "  windowkv compare -m model.gguf --data data/minilong-suite --policies "
      "windowkv,windowkv:group=1:pyramid=flat,snapkv\n"
      "      --budgets 6%,12% --out results.jsonl");
  flags->model.add_to(*command);
  auto* group = command->add_option_group("Compare");
  group->add_option("--data", flags->data, "folders or files in LongBench's format")
      ->required()
      ->type_name("PATH");
  group->add_option("--policies", flags->policies, "policies; full is always among them")
      ->delimiter(',')
      ->capture_default_str();
  group->add_option("--budgets", flags->budgets, "budgets, each for every policy: N or P%")
      ->delimiter(',')
      ->capture_default_str();
  group->add_option("--datasets", flags->datasets, "only these datasets")->delimiter(',');
  group->add_option("--limit", flags->limit, "rows a dataset, the first; -1: all")->capture_default_str();
  group
      ->add_option("--max-length", flags->max_length,
                   "prompt tokens, longer ones lose their middle; 0: what fits")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str();
  group->add_option("--out", flags->out, "results as JSON lines; a run that was stopped goes on from it")
      ->type_name("FILE");
  group->add_option("--json", flags->json, "write the summary as JSON")->type_name("FILE");
  group->add_option("--html", flags->html, "write one self-contained page with charts")->type_name("FILE");
  group->add_option("--markdown", flags->markdown, "write the table as Markdown")->type_name("FILE");
  flags->task.add_to(*command, /*rows=*/true);
  command->callback([flags] { compare(*flags); });
}

}  // namespace windowkv::cli
