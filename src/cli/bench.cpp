// windowkv bench: prompt lengths × budgets × batches, in rounds, alone or beside llama.cpp's tools; medians.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/bench_cell.h"
#include "cli/commands.h"
#include "cli/devices.h"
#include "cli/interrupt.h"
#include "cli/length_marks.h"
#include "cli/llama_tools.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/provenance.h"
#include "cli/report.h"
#include "cli/resumable.h"
#include "model/loaded_model.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

using nlohmann::ordered_json;
using Table = std::vector<std::vector<std::string>>;

struct BenchFlags {
  ModelFlags model;
  PolicyFlags policy;
  std::vector<int64_t> lengths = {1024, 4096};
  std::vector<std::string> budgets = {"12%", "full"};
  std::vector<int64_t> batches = {1};
  int64_t prompts = 1;
  int64_t predict = 64;
  int repetitions = 3;
  std::string vs;
  bool equal_memory = false;
  std::string json;

  std::unique_ptr<Policy> make_policy(const HParams& hp, Task task, const std::string& budget) const {
    return policy.make_at(hp, task, budget);
  }
};

/// One batch of a cell beside llama.cpp.
struct Rival {
  const BenchCell* cell;
  size_t batch;            ///< index into the cell's
  int64_t sequences;       ///< llama.cpp's
  int64_t kv_bytes;        ///< ours, one layer in full included
  int64_t rival_kv_bytes;  ///< llama.cpp's, of the cells it makes
};

/// The GPUs that hold the layers, by ggml's names, for llama.cpp to use the same; none where the CPU holds
/// all.
std::vector<std::string> rival_devices(const Model& model) {
  std::vector<std::string> names;
  if (model.on_cpu()) return names;
  for (const auto& holder : model.devices()) {
    names.push_back(holder.name());
    if (names.back() == "CPU")
      throw Error(
          "--vs llama needs all layers on the CPU or all on GPUs, but here both hold layers; choose with "
          "--device");
  }
  return names;
}

/// llama.cpp's measurements by prompt length and number of sequences: one serves all budgets.
using RivalSpeeds = std::map<std::pair<int64_t, int64_t>, std::vector<LlamaTools::Speed>>;

std::vector<Rival> rivals_of(const std::vector<BenchCell>& cells, const BenchFlags& flags, Task task,
                             const Engine& engine, const HParams& hp, const LlamaTools& llama) {
  std::vector<Rival> out;
  for (const auto& cell : cells) {
    const auto plan = engine.plan(cell.length, *flags.make_policy(hp, task, cell.budget), flags.predict);
    const int64_t theirs = llama.kv_bytes(hp, cell.length) + hp.state_bytes();
    for (size_t i = 0; i < cell.decode.size(); ++i) {
      const int64_t ours = cell.decode[i].sequences * (plan.kv_kept + plan.kv_reserve);
      const int64_t sequences =
          flags.equal_memory ? std::max<int64_t>(1, ours / theirs) : cell.decode[i].sequences;
      out.push_back({&cell, i, sequences, ours + plan.kv_scratch, sequences * theirs});
    }
  }
  return out;
}

std::string cell_text(double value, int digits) {
  return fmt::format("{:.{}f}", value, digits);
}

/// Round by round a/b as "median (smallest-largest)".
std::string ratio_text(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) ratios.push_back(a[i] / b[i]);
  const auto [low, high] = std::minmax_element(ratios.begin(), ratios.end());
  return fmt::format("{:.2f} ({:.2f}-{:.2f})", median(ratios), *low, *high);
}

std::string speeds_table(const std::vector<BenchCell>& cells, const HParams& hp) {
  LengthMarks lengths(hp);
  Table rows = {{"prompt", "budget", "kept", "prefill ms", "prefill t/s", "selection ms", "of prefill",
                 "first token ms", "batch", "decode t/s", "ms/step", "KV kept", "KV full", "KV peak"}};
  for (const auto& c : cells) {
    const double prefill = median(c.prefill_ms);
    const double selection = median(c.selection_ms);
    for (const auto& batch : c.decode) {
      const auto n = static_cast<double>(batch.sequences);
      const double speed = median(batch.tokens_per_second);
      std::vector<std::string> row = {lengths.text(c.length), c.budget};
      const std::vector<std::string> once = {
          fmt::format("{:.1f} %", 100 * c.kept),
          cell_text(prefill, 1),
          cell_text(static_cast<double>(c.length * c.prompts) / prefill * 1e3, 0),
          cell_text(selection, 2),
          fmt::format("{:.2f} %", 100 * selection / prefill),
          cell_text(median(c.first_token_ms), 1)};
      if (&batch == &c.decode.front())
        row.insert(row.end(), once.begin(), once.end());
      else
        row.resize(row.size() + once.size());
      for (const auto& text :
           {fmt::format("{}", batch.sequences), cell_text(speed, 1),
            speed > 0 ? cell_text(n / speed * 1e3, 2) : std::string("-"),
            bytes_text(c.kv.kept * batch.sequences), bytes_text(c.kv.full * batch.sequences),
            bytes_text(batch.sequences * (c.plan.kv_kept + c.plan.kv_reserve) + c.plan.kv_scratch)})
        row.push_back(text);
      rows.push_back(row);
    }
  }
  return table_text(rows) + lengths.note();
}

/// What devices had to tell each other.
std::string traffic_table(const std::vector<BenchCell>& cells, int64_t predict) {
  Table rows = {
      {"between devices", "budget", "prefill copies", "bytes", "batch", "copies/step", "bytes/step"}};
  for (const auto& c : cells)
    for (const auto& batch : c.decode) {
      const bool first = &batch == &c.decode.front();
      const auto a_step = static_cast<double>(batch.traffic.copies) / static_cast<double>(predict);
      rows.push_back({fmt::format("{}", c.length), c.budget, first ? fmt::format("{}", c.traffic.copies) : "",
                      first ? bytes_text(c.traffic.bytes) : "", fmt::format("{}", batch.sequences),
                      predict > 0 ? fmt::format("{:.1f}", a_step) : "-",
                      predict > 0 ? bytes_text(batch.traffic.bytes / predict) : "-"});
    }
  return table_text(rows);
}

std::string memory_table(const std::vector<BenchCell>& cells) {
  Table rows = {{"peak memory", "budget", "program", "weights", "KV cache", "hidden states, attention",
                 "compute", "sum", "measured RSS", "unexplained"}};
  for (const auto& c : cells) {
    const auto& m = c.memory;
    rows.push_back({fmt::format("{}", c.length), c.budget, bytes_text(m.program), bytes_text(m.weights),
                    bytes_text(m.kv), bytes_text(m.prompt), bytes_text(m.compute), bytes_text(m.explained()),
                    m.rss < 0 ? "-" : bytes_text(m.rss),
                    m.rss < 0 ? "-"
                              : fmt::format("{:.1f} %", 100.0 * static_cast<double>(m.rss - m.explained()) /
                                                            static_cast<double>(m.rss))});
  }
  return table_text(rows);
}

struct RivalValues {
  std::vector<double> prefill_ms;
  std::vector<double> decode_tps;
};

RivalValues values_of(const std::vector<LlamaTools::Speed>& speeds) {
  RivalValues out;
  for (const auto& speed : speeds) {
    out.prefill_ms.push_back(speed.prefill_ms);
    out.decode_tps.push_back(speed.decode_tps);
  }
  return out;
}

std::string rivals_table(const std::vector<Rival>& rivals, const RivalSpeeds& speeds) {
  Table rows = {{"vs llama.cpp", "budget", "sequences", "llama.cpp", "prefill ms", "llama.cpp",
                 "ratio (range)", "decode t/s", "llama.cpp", "ratio (range)", "KV peak", "llama.cpp"}};
  for (const auto& r : rivals) {
    const auto its = values_of(speeds.at({r.cell->length, r.sequences}));
    if (!r.cell->measured() || its.prefill_ms.empty()) continue;  // on Ctrl-C
    const auto& ours = r.cell->decode[r.batch];
    rows.push_back({fmt::format("{}", r.cell->length), r.cell->budget, fmt::format("{}", ours.sequences),
                    fmt::format("{}", r.sequences), cell_text(median(r.cell->prefill_ms), 1),
                    cell_text(median(its.prefill_ms), 1), ratio_text(r.cell->prefill_ms, its.prefill_ms),
                    cell_text(median(ours.tokens_per_second), 1), cell_text(median(its.decode_tps), 1),
                    ratio_text(ours.tokens_per_second, its.decode_tps), bytes_text(r.kv_bytes),
                    bytes_text(r.rival_kv_bytes)});
  }
  return table_text(rows);
}

ordered_json results_json(const std::vector<BenchCell>& cells, const std::vector<Rival>& rivals,
                          const RivalSpeeds& speeds, int64_t predict) {
  auto results = ordered_json::array();
  for (const auto& c : cells) {
    ordered_json decode = ordered_json::array();
    for (const auto& batch : c.decode)
      decode.push_back({{"sequences", batch.sequences},
                        {"tokens_per_second", batch.tokens_per_second},
                        {"device_copies", batch.traffic.copies},
                        {"device_copy_bytes", batch.traffic.bytes}});
    ordered_json beside = ordered_json::array();
    for (const auto& r : rivals)
      if (r.cell == &c) {
        const auto its = values_of(speeds.at({c.length, r.sequences}));
        beside.push_back({{"sequences", c.decode[r.batch].sequences},
                          {"kv_peak_bytes", r.kv_bytes},
                          {"llama_sequences", r.sequences},
                          {"llama_kv_bytes", r.rival_kv_bytes},
                          {"llama_prefill_ms", its.prefill_ms},
                          {"llama_tokens_per_second", its.decode_tps}});
      }
    results.push_back({{"prompt_tokens", c.length},
                       {"budget", c.budget},
                       {"kept_share", c.kept},
                       {"prefill_ms", c.prefill_ms},
                       {"selection_ms", c.selection_ms},
                       {"first_token_ms", c.first_token_ms},
                       {"device_copies", c.traffic.copies},
                       {"device_copy_bytes", c.traffic.bytes},
                       {"decode_tokens", predict},
                       {"decode", decode},
                       {"kv", {{"bytes", c.kv.kept}, {"bytes_full", c.kv.full}, {"peak_bytes", c.kv.peak}}},
                       {"memory",
                        {{"program", c.memory.program},
                         {"weights", c.memory.weights},
                         {"kv", c.memory.kv},
                         {"prompt", c.memory.prompt},
                         {"compute", c.memory.compute},
                         {"peak_rss", c.memory.rss}}}});
    if (!rivals.empty()) results.back()["llama"] = beside;
  }
  return results;
}

void bench(BenchFlags flags) {
  catch_interrupts();
  drop_repeated(flags.lengths);
  drop_repeated(flags.budgets);
  drop_repeated(flags.batches);
  const auto file = open_output(flags.json);
  // Random tokens ask for nothing.
  const Task task = flags.policy.task.choice()(kNeutralTask, "").task;
  check_budgets(flags.budgets);
  const bool beside = !flags.vs.empty();
  if (beside && !flags.model.rpc.empty())
    throw Error("--vs llama cannot be combined with --rpc: a server serves one client at a time");
  if (flags.policy.total != "off")
    throw Error(
        "--kv-budget-total: a benchmark returns to the end of the prompt; use run, which measures too");
  if (beside && flags.predict < 1)
    throw Error("--vs compares decode as well, so --predict must be at least 1");
  if (beside)
    LlamaTools::require(flags.equal_memory || std::ranges::find(flags.batches, 1) != flags.batches.end(),
                        std::ranges::any_of(flags.batches, [](auto b) { return b > 1; }));
  const auto model = flags.model.load();
  const auto& hp = model->hparams();
  {
    BenchCell warm_up{.length = std::min<int64_t>(512, flags.lengths.front()),
                      .budget = flags.budgets.front()};
    Engine engine(*model, flags.model.engine());
    warm_up.measure(*model, engine, *flags.make_policy(hp, task, warm_up.budget), flags.predict);
  }
  const int recall = flags.make_policy(hp, task, flags.budgets.front())->recall();
  const int64_t program = program_bytes(*model);
  Engine engine(*model, flags.model.engine());

  std::vector<BenchCell> cells;
  for (auto length : flags.lengths)
    for (const auto& budget : flags.budgets) {
      auto& cell =
          cells.emplace_back(BenchCell{.length = length, .prompts = flags.prompts, .budget = budget});
      for (auto batch : flags.batches) cell.decode.push_back({batch, {}});
      cell.memory.program = program;
    }
  LlamaTools llama{flags.model.file(),       flags.model.threads,
                   flags.model.chunk,        flags.predict,
                   flags.model.engine().kv,  beside ? rival_devices(*model) : std::vector<std::string>{},
                   flags.model.tensor_split, std::min(flags.model.cpu_experts, hp.n_layer)};
  const auto rivals = beside ? rivals_of(cells, flags, task, engine, hp, llama) : std::vector<Rival>{};
  RivalSpeeds speeds;
  for (const auto& r : rivals) speeds[{r.cell->length, r.sequences}];

  // Repetitions outermost and llama.cpp after every length, so that what else the machine does falls on every
  // cell alike.
  Progress progress("bench");
  constexpr int64_t kParts = 1000;  // of a measurement
  int64_t done = 0;
  const int64_t total = static_cast<int64_t>(cells.size() + speeds.size()) * flags.repetitions;
  const auto report = [&](int64_t part) { progress.update(kParts * done + part, kParts * total); };
  const auto within = [&](int64_t step, int64_t steps) {
    report(kParts * step / std::max<int64_t>(1, steps + 1));
  };
  const auto measure = [&](int64_t length) {
    for (auto& cell : cells)
      if (cell.length == length) {
        cell.measure(*model, engine, *flags.make_policy(hp, task, cell.budget), flags.predict, within);
        ++done;
        report(0);
      }
    for (auto& [of, measured] : speeds)
      if (of.first == length) {
        progress.stage(fmt::format("llama.cpp at {} tokens{}", length,
                                   of.second > 1 ? fmt::format(", {} sequences", of.second) : ""));
        measured.push_back(llama.measure(length, of.second));
        ++done;
        report(0);
      }
  };
  try {
    for (int r = 0; r < flags.repetitions; ++r)
      for (auto length : flags.lengths) measure(length);
  } catch (const Cancelled&) {  // what was measured so far is shown
  }
  progress.clear();

  std::vector<BenchCell> measured;
  std::copy_if(cells.begin(), cells.end(), std::back_inserter(measured),
               [](const BenchCell& cell) { return cell.measured(); });
  if (!measured.empty()) {
    print(speeds_table(measured, hp));
    if (recall > 0)
      print(fmt::format(
          "decode chooses again every {}: \"KV kept\" is what a token reads in the prefix store\n",
          recall == 1 ? "token" : fmt::format("{} tokens", recall)));
    // Of what lies on other devices this process's peak says nothing; plans are of one prompt.
    if (!model->on_cpu())
      print("\n" + traffic_table(measured, flags.predict) + strays_text(engine));
    else if (flags.prompts == 1)
      print("\n" + memory_table(measured));
    if (beside) print("\n" + rivals_table(rivals, speeds));
  }
  end_if_interrupted(static_cast<size_t>(done), static_cast<size_t>(total), "measurements", {flags.json});
  if (file) {
    const auto& kv = flags.model.engine().kv;
    ordered_json json = {{"command", command_line()},
                         {"model", model->path()},
                         {"type", model->weight_type()},
                         {"device", model->device_name()},
                         {"threads", model->loaded().backends->threads()},
                         {"chunk", flags.model.chunk},
                         {"kv_type", {{"k", to_string(kv.k)}, {"v", to_string(kv.v)}}},
                         {"task", to_string(task)},
                         {"policy", flags.policy.kv},
                         {"recall", recall},
                         {"repetitions", flags.repetitions},
                         {"prompts", flags.prompts},
                         {"results", results_json(cells, rivals, speeds, flags.predict)}};
    file->commit(json_text(json, 2));
  }
}

}  // namespace

void add_bench(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  auto* command = app.add_subcommand("bench", "Measure prefill, selection, decode and memory");
  command->footer(
      "Prompts are random tokens; figures are medians over the repetitions. A batch of N decodes N copies "
      "of\n"
      "the prompt's cache together; its tokens/s are the total. With --vs llama, llama-bench (one sequence) "
      "and\n"
      "llama-batched-bench (more) run in alternation on the same file, with the same devices, threads and "
      "chunk\n"
      "size; ratios are windowkv's figure over llama.cpp's, repetition by repetition: median "
      "(smallest-largest).\n"
      "Examples:\n"
      "  windowkv bench -m model.gguf -l 1024,4096,8192 -b 12%,512,full -r 5 --json bench.json\n"
      "  windowkv bench -m model.gguf -l 4096 -b 12% --batch 1,8,32 -ctk q8_0 -ctv q8_0\n"
      "  windowkv bench -m model.gguf -l 64,128,256 --prompts 8 -n 0\n"
      "  windowkv bench -m model.gguf -l 4096,16384 -b 12% --vs llama -t 2\n"
      "  windowkv bench -m model.gguf -l 16384 -b 12% --batch 32 --vs llama --equal-memory");
  flags->model.add_to(*command);
  auto* group = command->add_option_group("Bench");
  add_lengths(*group, "-l,--lengths", flags->lengths, "prompt lengths in tokens; 1k is 1,024");
  group
      ->add_option("-b,--kv-budget,--budgets", flags->budgets,
                   "cache budgets: tokens (N), percent of the prompt (P%, or P%:N with a floor), or full")
      ->delimiter(',')
      ->capture_default_str();
  group->add_option("--batch", flags->batches, "batch sizes: sequences decoded together")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, int64_t{4096}))
      ->capture_default_str();
  group->add_option("-n,--predict", flags->predict, "tokens to decode in each sequence")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
      ->capture_default_str();
  group->add_option("-r,--repetitions", flags->repetitions, "number of repetitions, run in alternation")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  auto* prompts = group
                      ->add_option("--prompts", flags->prompts,
                                   "prompts prefilled together at each length; short ones share chunks")
                      ->check(CLI::Range(int64_t{1}, int64_t{1024}))
                      ->capture_default_str();
  auto* vs =
      group->add_option("--vs", flags->vs, "also run llama.cpp's tools, in alternation, and print the ratios")
          ->check(CLI::IsMember({"llama"}));
  prompts->excludes(vs);
  group
      ->add_flag("--equal-memory", flags->equal_memory,
                 "give llama.cpp as many sequences as fit into windowkv's KV memory")
      ->needs(vs);
  group->add_option("--json", flags->json, "write all measurements as JSON")->type_name("FILE");
  flags->policy.add_to(*command, /*fixed_policy=*/true);
  command->callback([flags] { bench(*flags); });
}

}  // namespace windowkv::cli
