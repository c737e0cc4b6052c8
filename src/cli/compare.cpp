// windowkv compare: policies × budgets on the same samples.
#include "eval/compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/compare_report.h"
#include "cli/interrupt.h"
#include "cli/niah_flags.h"
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

struct CompareFlags {
  ModelFlags model;
  TaskFlags task;
  NiahFlags niah;
  std::vector<std::string> data;
  ContenderFlags contenders{.policies = {"windowkv", "windowkv:preset=paper", "snapkv", "pyramidkv",
                                         "chunkkv", "h2o", "tova", "streaming-llm", "random"}};
  std::vector<std::string> datasets;
  int64_t limit = -1;
  int64_t max_length = 0;
  bool follow = false;
  std::string store_type{to_string(PrefixStoreOptions().types.k)};
  std::string reference;
  std::string out;
  std::string json;
  std::string markdown;
};

/// Full first, then the policies budget by budget.
std::vector<eval::Contender> contenders_of(const CompareFlags& flags, int n_layer) {
  std::vector<eval::Contender> list = {eval::make_contender("full", "100%", n_layer)};
  for (const auto& budget : flags.contenders.budgets)
    for (auto& contender : eval::make_contenders(flags.contenders.policies, {&budget, 1}, n_layer))
      if (contender.kv != "full") list.push_back(std::move(contender));
  return list;
}

/// The needle grid among the samples compared on.
struct Needles {
  NiahInputs inputs;
  size_t first = 0;  ///< of its samples, which are by point
};

/// The grid's prompts, behind the samples there are.
void append_needles(const CompareFlags& flags, const Model& model, Needles& needles,
                    std::vector<eval::Sample>& samples) {
  if (flags.max_length > 0 && flags.max_length < needles.inputs.grid.lengths.back())
    throw Error(
        fmt::format("--max-length {} would cut the needles out of prompts of {} tokens; raise it, or "
                    "leave lengths out of --niah-lengths",
                    flags.max_length, needles.inputs.grid.lengths.back()));
  const auto prompts = flags.niah.prompts(model, needles.inputs);
  const auto setup = flags.niah.setup(model.vocab(), needles.inputs);
  needles.first = samples.size();
  const auto points = needles.inputs.grid.points();
  Progress progress("needle prompts");
  for (const auto& point : points) {
    if (interrupted()) throw Cancelled();
    progress.update(static_cast<int64_t>(samples.size() - needles.first),
                    static_cast<int64_t>(points.size()));
    samples.push_back(eval::niah_sample(prompts.make(point), point, prompts.chat(), flags.niah.predict));
    samples.back().id += " " + setup;  // other needles are other samples in the results file
  }
}

NiahReport niah_report(const CompareFlags& flags, const Model& model, const Needles& needles,
                       std::span<const eval::Contender> contenders, std::span<const eval::Sample> samples,
                       const std::vector<std::vector<eval::SampleResult>>& measured) {
  const auto& grid = needles.inputs.grid;
  const size_t points = grid.points().size();
  eval::NiahCells cells(contenders.size(), std::vector<std::optional<eval::NiahCell>>(points));
  for (size_t p = 0; p < points; ++p) {
    const auto& row = measured[needles.first + p];
    for (size_t c = 0; c < row.size(); ++c) {
      auto cell = eval::niah_cell(samples[needles.first + p], row[c].text);
      cell.kept_share = row[c].kept_share;
      cell.kept_bytes = row[c].kept_bytes;
      cells[c][p] = std::move(cell);
    }
  }
  return {grid, eval::summarize_niah(grid, contenders, cells),
          flags.niah.facts(model.vocab(), needles.inputs)};
}

/// All that changes what a policy makes of a sample, so that a results file is only taken up by such a run.
std::string setup_of(const CompareFlags& flags, const Model& model, const std::string& model_hash) {
  const auto kv = flags.model.engine().kv;
  return fmt::format("v3 | {} | {} | {} | {} | {} {} | {}{}", model_hash, WINDOWKV_VERSION, flags.max_length,
                     flags.task.text(), to_string(kv.k), to_string(kv.v),
                     fmt::join(model.hparams().layer_shares, ","),
                     flags.store_type == CompareFlags().store_type ? "" : " | " + flags.store_type);
}

void compare(const CompareFlags& flags) {
  catch_interrupts();
  const auto json_file = open_output(flags.json);
  const auto markdown_file = open_output(flags.markdown);
  const auto log = open_log(flags.out);
  const auto task = flags.task.choice();

  std::optional<Needles> needles;
  if (!flags.niah.lengths.empty()) needles = Needles{flags.niah.read()};
  if (flags.data.empty() && !needles)
    throw Error("nothing to compare; give samples with --data, or a needle grid with --niah-lengths");
  auto [samples, broken] = read_samples(flags.data, {flags.datasets, flags.limit});
  if (samples.empty() && !flags.data.empty()) throw Error("no usable sample in the files given with --data");
  const auto model = flags.model.load();
  const auto model_hash = fnv1a64_of_file(model->path());
  const auto contenders = contenders_of(flags, model->hparams().n_full_layers());
  if (needles) append_needles(flags, *model, *needles, samples);
  Engine engine(*model, flags.model.engine());

  eval::CompareOptions options;
  options.max_length = flags.max_length;
  options.task = task;
  options.log = log.get();
  options.setup = setup_of(flags, *model, model_hash);
  options.follow = flags.follow;
  const auto store = parse_kv_type(flags.store_type);
  options.store = {store, store};
  std::optional<eval::ReferenceFile> reference;
  if (!flags.reference.empty())
    options.reference = &reference.emplace(flags.reference, model_hash, flags.model.engine().kv);
  options.cancelled = interrupted;
  Progress progress("compare");
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  size_t failed = 0;
  options.failed = [&](const eval::Sample& sample, const std::string& error) {
    progress.clear();
    warn(fmt::format("{}/{}: {}", sample.dataset, sample.id, error));
    ++failed;
  };
  const auto measured = eval::run_compare(engine, *model, samples, contenders, options);
  progress.clear();
  if (failed == samples.size()) throw Error("every sample failed");
  const auto finished = static_cast<size_t>(
      std::count_if(measured.begin(), measured.end(), [](const auto& row) { return !row.empty(); }));
  CompareReport report{eval::summarize_compare(samples, contenders, measured),
                       provenance(*model, model_hash),
                       samples.size(),
                       failed,
                       flags.follow,
                       {}};
  if (needles && !flags.follow)
    report.niah = niah_report(flags, *model, *needles, contenders, samples, measured);
  if (finished > 0) {
    print(table_text(compare_table(report)));
    if (report.niah) print(fmt::format("\n{}", table_text(niah_table(*report.niah))));
  }
  end_if_interrupted(finished, samples.size() - failed, "samples", {flags.json, flags.markdown},
                     how_to_continue(flags.out, log.get()));
  if (json_file) json_file->commit(json_text(compare_json(report), 2));
  if (markdown_file) markdown_file->commit(compare_markdown(report));
  if (failed > 0 || !broken.empty()) throw ExitWith{kLeftOutExit};
}

}  // namespace

void add_compare(CLI::App& app) {
  auto flags = std::make_shared<CompareFlags>();
  auto* command = app.add_subcommand("compare", "Compare policies at equal budgets on the same samples");
  command->footer(
      "One prefill per sample serves all policies. Scores are 0 to 100; KL and top-1 compare next-token\n"
      "distributions with the full cache's along its own answer; \"same\" is the share of its answers\n"
      "that a policy reproduces. Intervals are 95 % bootstrap intervals. With --follow only the full\n"
      "cache generates, and each other policy is scored along its answer in one pass, which is many\n"
      "times faster; --reference keeps those answers for the next run. A policy may have its own\n"
      "settings.\n"
      "Exit code 0: all samples ran; 3: some were broken or failed, and are listed; 130: Ctrl-C.\n"
      "Examples:\n"
      "  windowkv compare -m model.gguf --data data/minilong-suite --policies "
      "windowkv,windowkv:preset=paper,snapkv\n"
      "      --budgets 6%,12% --out results.jsonl\n"
      "  windowkv compare -m model.gguf --data LongBench/data ruler.jsonl --follow --reference full.jsonl "
      "--out follow.jsonl\n"
      "With --niah-lengths, a needle grid is added as the dataset niah, with its own table and heatmaps:\n"
      "  windowkv compare -m model.gguf --niah-lengths 512,1k,1900 --niah-depths 0,25,50,75,100 --json "
      "compare.json");
  flags->model.add_to(*command);
  auto* group = command->add_option_group("Compare");
  group
      ->add_option("--data", flags->data,
                   "folders or files in LongBench's format, or what ruler --generate-only writes")
      ->type_name("PATH...");
  group->add_option("--datasets", flags->datasets, "run only these datasets")->delimiter(',');
  add_limit(*group, flags->limit, "run only the first N samples of each dataset");
  add_max_length(*group, flags->max_length);
  group->add_flag("--follow", flags->follow,
                  "only measure how closely policies follow the full cache's answers; only full generates");
  group
      ->add_option(
          "--store-type", flags->store_type,
          fmt::format("how policies with recall=N, which choose again every N tokens, store what they choose "
                      "from: {}",
                      fmt::join(kv_type_names(), ", ")))
      ->type_name("TYPE")
      ->capture_default_str();
  group
      ->add_option("--reference", flags->reference,
                   "JSON lines file of the full cache's answers: those in the file are not generated again, "
                   "new ones are added")
      ->type_name("FILE");
  group
      ->add_option("--out", flags->out,
                   "write each result as a JSON line as soon as it is ready; running the command again, even "
                   "with more samples or policies, continues from the file")
      ->type_name("FILE");
  group->add_option("--json", flags->json, "write the summary as JSON")->type_name("FILE");
  group->add_option("--markdown", flags->markdown, "write the table as Markdown")->type_name("FILE");
  flags->task.add_to(*command, /*has_rows=*/true);
  flags->contenders.add_to(*command, "; full is always included");
  flags->niah.depths = "0,25,50,75,100";
  flags->niah.add_to(*command, "niah-");
  command->callback([flags] { compare(*flags); });
}

}  // namespace windowkv::cli
