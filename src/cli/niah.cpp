// windowkv niah: needle in a haystack, lengths × depths × policies × budgets, and the picture of it.
#include "eval/niah.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/niah_flags.h"
#include "cli/niah_report.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/provenance.h"
#include "cli/report.h"
#include "cli/resumable.h"
#include "support/file.h"

namespace windowkv::cli {

namespace {

struct NiahCommand {
  ModelFlags model;
  TaskFlags task;
  NiahFlags test;
  ContenderFlags contenders;
  std::string out;
  std::string json;
  std::string markdown;
};

void niah(const NiahCommand& flags) {
  catch_interrupts();
  const auto inputs = flags.test.read();
  const auto json = open_output(flags.json);
  const auto markdown = open_output(flags.markdown);

  const auto task = flags.task.choice();
  const auto model = flags.model.load();
  const auto& vocab = model->vocab();
  const auto contenders = eval::make_contenders(flags.contenders.policies, flags.contenders.budgets,
                                                model->hparams().n_full_layers());
  const auto prompts = flags.test.prompts(*model, inputs);
  const auto model_hash = fnv1a64_of_file(model->path());
  const auto log = open_log(flags.out);

  Engine engine(*model, flags.model.engine());
  Progress progress("niah");
  eval::NiahOptions options;
  options.max_tokens = flags.test.predict;
  options.task = task;
  options.log = log.get();
  options.setup = fnv1a64(fmt::format("{} {}{} {} {}", WINDOWKV_VERSION, model_hash, calibration_key(*model),
                                      flags.test.setup(vocab, inputs), flags.task.text()));
  options.cancelled = interrupted;
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  const auto points = inputs.grid.points();
  const auto cells = eval::run_niah(engine, *model, prompts, points, contenders, options);
  progress.clear();
  const auto finished = static_cast<size_t>(
      std::count_if(cells[0].begin(), cells[0].end(), [](const auto& cell) { return cell.has_value(); }));

  const NiahReport report{inputs.grid, eval::summarize_niah(inputs.grid, contenders, cells),
                          flags.test.facts(vocab, inputs)};
  if (finished > 0) print(table_text(niah_table(report)));
  end_if_interrupted(finished, points.size(), "prompts", {flags.json, flags.markdown},
                     how_to_continue(flags.out, log.get()));
  const auto origin = provenance(*model, model_hash);
  if (json) {
    nlohmann::ordered_json all = {{"provenance", facts_json(origin)}};
    all.update(niah_json(report));
    json->commit(json_text(all, 2));
  }
  if (markdown) markdown->commit(markdown_table(niah_table(report)));
}

}  // namespace

void add_niah(CLI::App& app) {
  auto flags = std::make_shared<NiahCommand>();
  auto* command =
      app.add_subcommand("niah", "Test retrieval of a needle in a haystack, by prompt length and depth");
  command->footer(
      "Scores are ROUGE-1 F1 (0 to 100) against the expected answer; \"exact\" is the percentage of\n"
      "answers that contain it. Intervals are 95 % bootstrap intervals over prompts; --samples runs\n"
      "several prompts per cell.\n"
      "Examples:\n"
      "  windowkv niah -m model.gguf --haystack essays/ --json niah.json --out niah.jsonl\n"
      "  windowkv niah -m model.gguf --haystack book.txt -l 4k,8k,16k --depths 11 --policies "
      "full,windowkv,snapkv -b 6%,12%\n"
      "  windowkv niah -m models/minilong-6m-q8_0.gguf --needle-set minilong --policies "
      "full,windowkv:group=1,snapkv --samples 5");
  flags->model.add_to(*command);
  flags->test.lengths = {512, 1024, 2048};
  flags->test.add_to(*command, "");

  flags->contenders.add_to(*command);
  flags->task.add_to(*command, /*has_rows=*/true);

  auto* output = command->add_option_group("Output");
  output
      ->add_option("-o,--out", flags->out,
                   "write each result as a JSON line as soon as it is ready; running the same command again "
                   "continues from the file")
      ->type_name("FILE");
  output->add_option("--json", flags->json, "write the summary as JSON")->type_name("FILE");
  output->add_option("--markdown", flags->markdown, "write the table as Markdown")->type_name("FILE");
  command->callback([flags] { niah(*flags); });
}

}  // namespace windowkv::cli
