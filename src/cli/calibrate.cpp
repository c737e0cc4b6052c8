// windowkv calibrate: measures what each layer of a model needs of the cache.
#include "eval/calibrate.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>

#include "cli/commands.h"
#include "cli/haystack.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/provenance.h"
#include "cli/report.h"
#include "cli/resumable.h"
#include "cli/samples.h"
#include "eval/calibration_prompts.h"
#include "eval/longbench.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

/// Tokens of a prompt's length that are left to the question and the chat template.
constexpr int64_t kQuestionRoom = 96;

struct CalibrateFlags {
  ModelFlags model;
  std::vector<std::string> data;
  std::vector<std::string> files;
  std::vector<std::string> prompts;
  int64_t length = 1536;
  int64_t limit = 8;
  double percent = 12;
  int64_t max_tokens = eval::CalibrateOptions().max_tokens;
  std::string out;
  std::string log;

  bool given() const { return !data.empty() || !files.empty() || !prompts.empty(); }
};

/// All prompts that the flags name; without any, questions about the shipped text. `left_out` receives
/// whether some rows are broken.
std::vector<std::vector<Token>> prompts_of(const CalibrateFlags& flags, const Model& model, bool& left_out) {
  const auto& vocab = model.vocab();
  std::vector<std::vector<Token>> prompts;
  // Longer pieces would be read beyond what the model was trained for.
  const auto length = std::max(
      kQuestionRoom, std::min<int64_t>(flags.length, model.hparams().n_ctx_train - flags.max_tokens));
  if (!flags.data.empty()) {
    const auto data = read_samples(flags.data, {{}, flags.limit});
    if (data.samples.empty()) throw Error("no usable sample in the files given with --data");
    left_out = !data.broken.empty();
    for (const auto& sample : data.samples) prompts.push_back(eval::sample_tokens(model, sample));
  }
  for (const auto& file : flags.files)
    for (const auto& piece : eval::text_pieces(vocab, read_text_file(file), length, flags.limit))
      prompts.push_back(vocab.tokenize(piece));
  for (const auto& file : flags.prompts) {
    auto messages = eval::read_prompts(file);
    if (messages.size() > static_cast<size_t>(flags.limit)) messages.resize(static_cast<size_t>(flags.limit));
    for (const auto& message : messages) prompts.push_back(eval::message_prompt(vocab, message));
  }
  if (flags.given()) return prompts;
  const auto pieces = eval::text_pieces(vocab, read_haystack(default_haystack()),
                                        std::max(kQuestionRoom, length - kQuestionRoom), flags.limit);
  for (const auto& message : eval::questions_about(pieces))
    prompts.push_back(eval::message_prompt(vocab, message));
  return prompts;
}

/// Later commands take the calibration up by themselves, so that one from next to nothing must not pass for
/// a good one.
void check_amount(std::span<const std::vector<Token>> prompts) {
  constexpr size_t kFewest = 256;
  size_t tokens = 0;
  for (const auto& prompt : prompts) tokens += prompt.size();
  if (tokens < kFewest)
    warn(
        fmt::format("the calibration is measured on {} tokens only; it may be worse than none below about "
                    "{}; give more or longer prompts",
                    tokens, kFewest));
}

void show(const eval::CalibrationResult& result) {
  std::vector<std::vector<std::string>> rows = {{"layer"}};
  for (const double factor : eval::kCalibrationFactors) rows[0].push_back(fmt::format("KL at {}x", factor));
  rows[0].push_back("share");
  for (size_t layer = 0; layer < result.kl.size(); ++layer) {
    rows.push_back({fmt::format("{}", layer)});
    for (const double kl : result.kl[layer]) rows.back().push_back(fmt::format("{:.4f}", kl));
    rows.back().push_back(fmt::format("{:.2f}", result.layer_shares[layer]));
  }
  print(table_text(rows));
}

/// Beside the model, where every command finds it.
std::string default_out(const std::string& model) {
  return std::filesystem::path(model).replace_extension(".calibration.json").string();
}

/// Where results go as they come, until the calibration is complete; "" for one that goes to a pipe.
std::string log_beside(const std::string& out) {
  namespace fs = std::filesystem;
  if (fs::exists(out) && !fs::is_regular_file(out)) return "";
  return fs::path(out).replace_extension(".progress.jsonl").string();
}

void calibrate(const CalibrateFlags& flags) {
  catch_interrupts();
  const auto model = flags.model.load();
  const auto out = flags.out.empty() ? default_out(model->path()) : flags.out;
  const auto file = open_output(out);
  bool left_out = false;
  const auto prompts = prompts_of(flags, *model, left_out);
  check_amount(prompts);
  const auto log_path = flags.log.empty() ? log_beside(out) : flags.log;
  const auto log = open_log(log_path);
  const auto engine_options = flags.model.engine();
  Engine engine(*model, engine_options);
  Progress progress("calibrate");
  eval::CalibrateOptions options;
  options.percent = flags.percent;
  options.max_tokens = flags.max_tokens;
  options.log = log.get();
  options.setup = fnv1a64(fmt::format("{} {} {} {} {} {}", WINDOWKV_VERSION, fnv1a64_of_file(model->path()),
                                      flags.percent, flags.max_tokens, to_string(engine_options.kv.k),
                                      to_string(engine_options.kv.v)));
  options.cancelled = interrupted;
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  const auto result =
      run_resumable(progress, log_path, [&] { return eval::calibrate(engine, *model, prompts, options); });
  show(result);
  const auto& hp = model->hparams();
  file->commit(json_text({{"model", hp.name},
                          {"fingerprint", hp.fingerprint},
                          {"layer_shares", result.layer_shares},
                          {"budget_percent", flags.percent},
                          {"prompts", result.by_prompt.size()},
                          {"factors", eval::kCalibrationFactors},
                          {"kl", result.kl}},
                         -1));
  if (flags.log.empty() && !log_path.empty()) std::filesystem::remove(log_path);
  if (flags.out.empty()) tell(fmt::format("calibration written to {}\n", out));
  if (left_out) throw ExitWith{kLeftOutExit};
}

}  // namespace

void add_calibrate(CLI::App& app) {
  auto flags = std::make_shared<CalibrateFlags>();
  auto* command =
      app.add_subcommand("calibrate", "Measure how much of the cache each layer of a model needs");
  command->footer(
      "For one layer at a time, tries a quarter and four times the budget and measures how far the\n"
      "next-token distributions move from the full cache's, along the full cache's own answers, so no\n"
      "labels are needed. Layers that gain more then get more of the budget. Commands use the\n"
      "calibration next to the model if it was made for that model (any of its GGUFs), or else the one\n"
      "built into windowkv, if any (--calibration none turns both off). See docs/calibration.md.\n"
      "Exit code 0: all prompts were measured; 3: some samples were broken, and are listed; 130: Ctrl-C.\n"
      "Examples:\n"
      "  windowkv calibrate -m model.gguf\n"
      "  windowkv calibrate -m model.gguf -f handbook.txt --limit 6 -o model.calibration.json\n"
      "  windowkv calibrate -m model.gguf --prompts prompts.txt");
  flags->model.calibration = "none";
  flags->model.add_to(*command);
  auto* group = command->add_option_group(
      "Prompts", "Prompts to measure on (default: built-in questions about a bundled text)");
  group->add_option("--data", flags->data, "JSON lines files in the format of longbench, or folders of them")
      ->type_name("PATH");
  group->add_option("-f,--file", flags->files, "text files; the model continues pieces of them")
      ->type_name("FILE");
  group
      ->add_option("--prompts", flags->prompts,
                   "prompts without labels: one per line, or JSON lines with a \"prompt\"")
      ->type_name("FILE");
  group->add_option("--length", flags->length, "tokens per piece of text")
      ->check(CLI::Range(int64_t{64}, int64_t{1} << 20))
      ->capture_default_str();
  group->add_option("--limit", flags->limit, "maximum prompts per file, or samples per dataset")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command->add_option("--percent", flags->percent, "budget to measure at, in percent of the prompt")
      ->check(CLI::Range(0.1, 100.0))
      ->capture_default_str();
  command->add_option("-n,--predict", flags->max_tokens, "tokens compared per answer")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 20))
      ->capture_default_str();
  command
      ->add_option("-o,--out", flags->out,
                   "file to write (default: MODEL.calibration.json next to the model)")
      ->type_name("FILE");
  command
      ->add_option("--log", flags->log,
                   "file for results as they are measured, from which an interrupted run continues "
                   "(default: next to the calibration, deleted when that is complete)")
      ->type_name("FILE");
  command->callback([flags] { calibrate(*flags); });
}

}  // namespace windowkv::cli
