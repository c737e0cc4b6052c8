// windowkv bench: prompt lengths × caches × repetitions, alternating, medians.
#include <fmt/format.h>
#include <malloc.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "support/file.h"
#include "windowkv/error.h"
#include "windowkv/generate.h"

namespace windowkv::cli {

namespace {

struct BenchFlags {
  ModelFlags model;
  PolicyFlags policy;
  std::vector<int64_t> lengths = {1024, 4096};
  std::vector<std::string> budgets = {"12%", "full"};
  int64_t predict = 64;
  int repetitions = 3;
  std::string json;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

/// Most bytes resident since the last reset; -1 where the system does not tell.
int64_t peak_rss() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  return -1;
}

void reset_peak_rss() {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";
}

struct Cell {
  int64_t length = 0;
  std::string budget;
  std::vector<double> prefill_ms, selection_ms, first_token_ms, decode_tps;
  KvBytes kv;
  int64_t rss = 0;
  double kept = 0;
};

void measure(Cell& cell, const BenchFlags& flags, Task task, const Model& model, Engine& engine) {
  const bool full = cell.budget == "full";
  const auto policy =
      flags.policy.make(model.hparams(), task, full ? "full" : "windowkv", full ? "100%" : cell.budget);
  std::mt19937 random(42);
  std::vector<Token> prompt(static_cast<size_t>(cell.length));
  for (auto& token : prompt)
    token = static_cast<Token>(random() % static_cast<uint32_t>(model.hparams().n_vocab));

  reset_peak_rss();
  Sequence sequence;
  PrefillOptions prefill;
  prefill.reserve = flags.predict;
  prefill.cancelled = interrupted;
  const auto logits = engine.prefill(sequence, prompt, *policy, prefill);
  GenerateOptions generation;
  generation.max_tokens = flags.predict + 1;  // the first comes from prefill
  generation.ignore_end = true;
  generation.cancelled = interrupted;
  const auto out = generate(engine, nullptr, sequence, logits, prompt, generation);
  if (interrupted()) throw Cancelled();
  cell.prefill_ms.push_back(sequence.timing.total);
  cell.selection_ms.push_back(sequence.timing.selection);
  cell.first_token_ms.push_back(sequence.timing.total + out.first_token_ms);
  if (out.decoded > 0) cell.decode_tps.push_back(static_cast<double>(out.decoded) / out.decode_ms * 1000);
  cell.kv = sequence.bytes;
  cell.kept = static_cast<double>(cell.kv.kept) / static_cast<double>(cell.kv.full);
  cell.rss = std::max(cell.rss, peak_rss());
}

void bench(const BenchFlags& flags) {
  catch_interrupts();
  const auto file = open_output(flags.json);
  // Random tokens ask for nothing.
  const Task task = flags.policy.task.choice()(kNeutralTask, "").task;
  const auto model = flags.model.load();
  Engine engine(*model, flags.model.engine());

  std::vector<Cell> cells;
  for (auto length : flags.lengths)
    for (const auto& budget : flags.budgets) {
      if (budget != "full") Budget::parse(budget);
      cells.push_back({.length = length, .budget = budget});
    }
  // Repetitions outermost, so that what else the machine does falls on every cell alike; one round first to
  // warm up.
  {
    Cell warm_up{.length = std::min<int64_t>(512, flags.lengths.front()), .budget = flags.budgets.front()};
    measure(warm_up, flags, task, *model, engine);
  }
  Progress progress("bench");
  int64_t done = 0;
  for (int r = 0; r < flags.repetitions; ++r)
    for (auto& cell : cells) {
      measure(cell, flags, task, *model, engine);
      progress.update(++done, static_cast<int64_t>(cells.size()) * flags.repetitions);
    }
  progress.clear();

  std::vector<std::vector<std::string>> rows = {{"prompt", "budget", "kept", "prefill ms", "prefill t/s",
                                                 "selection ms", "of prefill", "first token ms", "decode t/s",
                                                 "KV kept", "KV full", "KV peak", "RSS peak"}};
  nlohmann::ordered_json json = {
      {"model", model->path()},           {"type", model->weight_type()},
      {"device", model->device_name()},   {"threads", flags.model.threads},
      {"chunk", flags.model.chunk},       {"task", to_string(task)},
      {"repetitions", flags.repetitions}, {"results", nlohmann::ordered_json::array()}};
  for (const auto& c : cells) {
    const double prefill = median(c.prefill_ms);
    const double selection = median(c.selection_ms);
    const double first = median(c.first_token_ms);
    const double decode = c.decode_tps.empty() ? 0 : median(c.decode_tps);
    rows.push_back({fmt::format("{}", c.length), c.budget, fmt::format("{:.1f} %", 100 * c.kept),
                    fmt::format("{:.1f}", prefill),
                    fmt::format("{:.0f}", static_cast<double>(c.length) / prefill * 1e3),
                    fmt::format("{:.2f}", selection), fmt::format("{:.2f} %", 100 * selection / prefill),
                    fmt::format("{:.1f}", first), fmt::format("{:.1f}", decode), bytes_text(c.kv.kept),
                    bytes_text(c.kv.full), bytes_text(c.kv.peak), bytes_text(c.rss)});
    json["results"].push_back(
        {{"prompt_tokens", c.length},
         {"budget", c.budget},
         {"kept_share", c.kept},
         {"prefill_ms", c.prefill_ms},
         {"selection_ms", c.selection_ms},
         {"first_token_ms", c.first_token_ms},
         {"decode_tokens", flags.predict},
         {"decode_tokens_per_second", c.decode_tps},
         {"kv", {{"bytes", c.kv.kept}, {"bytes_full", c.kv.full}, {"peak_bytes", c.kv.peak}}},
         {"peak_rss_bytes", c.rss}});
  }
  print(table_text(rows));
  if (file) file->commit(json_text(json, 2));
}

}  // namespace

void add_bench(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  auto* command = app.add_subcommand("bench", "Measure prefill, selection, decode and memory");
  command->footer(
      "Prompts are random tokens; figures are medians of the repetitions. Example:\n"
      "  windowkv bench -m model.gguf -l 1024,4096,8192 -b 12%,512,full -r 5 --json bench.json");
  flags->model.add_to(*command);
  auto* group = command->add_option_group("Bench");
  group->add_option("-l,--lengths", flags->lengths, "prompt lengths, tokens")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  group->add_option("-b,--kv-budget", flags->budgets, "budgets: N, P% or full")
      ->delimiter(',')
      ->capture_default_str();
  group->add_option("-n,--predict", flags->predict, "tokens to decode")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
      ->capture_default_str();
  group->add_option("-r,--repetitions", flags->repetitions, "measurements of each, alternating")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  group->add_option("--json", flags->json, "write every measurement as JSON")->type_name("FILE");
  flags->policy.add_to(*command, /*fixed_policy=*/true);
  command->callback([flags] { bench(*flags); });
}

}  // namespace windowkv::cli
