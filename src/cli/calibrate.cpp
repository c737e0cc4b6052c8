// windowkv calibrate: measures what each layer of a model needs of the cache.
#include "eval/calibrate.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/resumable.h"
#include "cli/samples.h"
#include "eval/longbench.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

struct CalibrateFlags {
  ModelFlags model;
  std::vector<std::string> data;
  int64_t limit = 4;
  double percent = 12;
  int64_t max_tokens = eval::CalibrateOptions().max_tokens;
  std::string out;
};

void show(const eval::CalibrationResult& result) {
  std::vector<std::vector<std::string>> rows = {{"layer"}};
  for (const double factor : result.factors) rows[0].push_back(fmt::format("KL at {}x", factor));
  rows[0].push_back("share");
  for (size_t layer = 0; layer < result.kl.size(); ++layer) {
    rows.push_back({fmt::format("{}", layer)});
    for (const double kl : result.kl[layer]) rows.back().push_back(fmt::format("{:.4f}", kl));
    rows.back().push_back(fmt::format("{:.2f}", result.layer_shares[layer]));
  }
  print(table_text(rows));
}

void calibrate(const CalibrateFlags& flags) {
  catch_interrupts();
  const auto file = open_output(flags.out);
  const auto data = read_samples(flags.data, {{}, flags.limit});
  if (data.samples.empty()) throw Error("no usable row in the files of --data");
  const auto model = flags.model.load();
  std::vector<std::vector<Token>> prompts;
  for (const auto& sample : data.samples) prompts.push_back(eval::sample_tokens(*model, sample));

  Engine engine(*model, flags.model.engine());
  Progress progress("calibrate");
  eval::CalibrateOptions options;
  options.percent = flags.percent;
  options.max_tokens = flags.max_tokens;
  options.cancelled = interrupted;
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  const auto result =
      run_resumable(progress, "", [&] { return eval::calibrate(engine, *model, prompts, options); });
  show(result);
  const auto& hp = model->hparams();
  if (file)
    file->commit(json_text({{"model", hp.name},
                            {"layer_shares", result.layer_shares},
                            {"budget_percent", flags.percent},
                            {"prompts", result.prompts},
                            {"factors", result.factors},
                            {"kl", result.kl}},
                           -1));
}

}  // namespace

void add_calibrate(CLI::App& app) {
  auto flags = std::make_shared<CalibrateFlags>();
  auto* command = app.add_subcommand("calibrate", "Measure what each layer of a model needs of the cache");
  command->footer(
      "Gives one layer at a time a quarter to four times the budget and measures how far the next-token\n"
      "distributions move from the full cache's, along the full cache's own answers; no labels are read. "
      "The\n"
      "budget is then shared out where it helps most. A file NAME.calibration.json beside the model is found "
      "by\n"
      "all commands (--calibration none: not used); the GGUFs of a model in all their types share one.\n"
      "Example:\n"
      "  windowkv calibrate -m model.gguf --data prompts.jsonl -o model.calibration.json");
  flags->model.calibration = "none";
  flags->model.add_to(*command);
  command
      ->add_option("--data", flags->data, "prompts: files of JSON lines as longbench takes them, or folders")
      ->required()
      ->type_name("PATH");
  command->add_option("--limit", flags->limit, "rows a dataset, the first")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command->add_option("--percent", flags->percent, "budget that is shared out, per cent of the prompt")
      ->check(CLI::Range(0.1, 100.0))
      ->capture_default_str();
  command->add_option("-n,--predict", flags->max_tokens, "tokens of each answer that are compared")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("-o,--out", flags->out, "the calibration, JSON")->type_name("FILE");
  command->callback([flags] { calibrate(*flags); });
}

}  // namespace windowkv::cli
