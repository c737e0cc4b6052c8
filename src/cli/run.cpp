// windowkv run: one prompt, one answer.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "support/clock.h"
#include "support/file.h"

namespace windowkv::cli {

namespace {

struct RunFlags {
  ModelFlags model;
  PolicyFlags policy;
  PromptFlags prompt;
  GenerateOptions generate;
  bool json = false;
  bool verbose = false;
  bool quiet = false;
  std::string trace;
};

std::string memory_text(const MemoryPlan& plan) {
  return fmt::format("KV cache {} ({} kept, {} for generated tokens, {} scratch), hidden states {}, rest {}",
                     bytes_text(plan.peak_kv()), bytes_text(plan.kv_kept), bytes_text(plan.kv_reserve),
                     bytes_text(plan.kv_scratch), bytes_text(plan.hidden),
                     bytes_text(plan.mask + plan.compute));
}

void describe(const Model& model, const Engine& engine, const Policy& policy, int64_t n, int64_t reserve) {
  const auto& hp = model.hparams();
  fmt::print(stderr, "model       {} ({}), {} layers, {} query and {} KV heads of {}, {} {}\n",
             hp.name.empty() ? model.path() : hp.name, hp.family, hp.n_layer, hp.n_head, hp.n_head_kv,
             hp.d_head, bytes_text(model.weight_bytes()), model.weight_type());
  fmt::print(stderr, "weights     {} on {}\n", fmt::join(model.buffers(), ", "), model.device_name());
  fmt::print(stderr, "memory      {}\n", memory_text(engine.plan(n, policy, reserve)));
  if (const auto devices = engine.plan_devices(n, policy, reserve); devices.size() > 1)
    for (const auto& d : devices)
      fmt::print(stderr, "  {}: {}; {} free\n", d.device, memory_text(d.memory), bytes_text(d.available));
}

/// What the devices had to tell each other.
void describe_traffic(const Engine& engine, int64_t decoded) {
  auto line = [](const char* name, const DeviceTraffic& t, const std::string& more) {
    if (t.graphs > 0)
      fmt::print(stderr, "{:<12}{} copies between devices, {}; {} graphs in {} parts{}\n", name, t.copies,
                 bytes_text(t.bytes), t.graphs, t.splits, more);
  };
  const auto decode = engine.decode_traffic();
  line("prefill", engine.prefill_traffic(), "");
  line("decode", decode,
       decoded > 0 ? fmt::format("; {:.1f} copies and {} a token",
                                 static_cast<double>(decode.copies) / static_cast<double>(decoded),
                                 bytes_text(decode.bytes / decoded))
                   : "");
}

void run(const RunFlags& flags) {
  catch_interrupts();
  flags.generate.sampling.validate();
  const auto trace = open_output(flags.trace);

  const auto task_choice = flags.policy.task.choice();
  flags.model.file();  // a download is no part of loading
  const auto start = Clock::now();
  const auto model = flags.model.load();
  const double load_ms = ms_since(start);
  const auto [prompt, text] = flags.prompt.read(*model);
  const auto task = task_choice(kNeutralTask, text);
  const auto policy = flags.policy.make(model->hparams(), task.task);
  const auto n = static_cast<int64_t>(prompt.size());
  check_context(model->hparams(), n);

  Engine engine(*model, flags.model.engine());
  auto generate_options = flags.generate;
  if (generate_options.max_tokens < 0)
    generate_options.max_tokens = std::max<int64_t>(1, model->hparams().n_ctx_train - n);
  generate_options.cancelled = interrupted;
  if (!flags.json) generate_options.on_text = print;

  PrefillOptions prefill_options;
  prefill_options.reserve = std::min<int64_t>(generate_options.max_tokens, 256);
  prefill_options.cancelled = interrupted;
  Progress progress("prefill");
  prefill_options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  if (flags.verbose) describe(*model, engine, *policy, n, prefill_options.reserve);

  Sequence sequence;
  const auto logits = engine.prefill(sequence, prompt, *policy, prefill_options);
  progress.clear();
  const auto generation = generate(engine, model->find_vocab(), sequence, logits, prompt, generate_options);

  const RunReport report{*model, *policy, prompt, sequence, generation, task, load_ms};
  if (flags.json) {
    print(json_text(trace_json(report), 2));
  } else if (!generation.text.empty() && !generation.text.ends_with('\n')) {
    print("\n");
  }
  if (trace) trace->commit(json_text(trace_json(report)));
  if (!flags.quiet) fmt::print(stderr, "\n{}", summary_text(report));
  if (flags.verbose) describe_traffic(engine, generation.decoded);
  if (generation.reason == StopReason::kCancelled) throw ExitWith{kInterruptedExit};
}

}  // namespace

void add_run(CLI::App& app) {
  auto flags = std::make_shared<RunFlags>();
  auto* command = app.add_subcommand("run", "Answer one prompt");
  command->footer(
      "The answer goes to standard output, the closing table to standard error. Examples:\n"
      "  windowkv run -m model.gguf -f book.txt -p \"Question: who is the killer?\"\n"
      "  windowkv run -m model.gguf -f book.txt --task aggregation -p \"Summarize the book.\" --kv-budget "
      "2048\n"
      "  windowkv run -m model.gguf -f book.txt --kv full --json");
  flags->model.add_to(*command);
  flags->prompt.add_to(*command);
  flags->policy.add_to(*command);

  auto& g = flags->generate;
  auto* generation = command->add_option_group("Generation");
  generation
      ->add_option("-n,--predict", g.max_tokens,
                   "most tokens to generate; -1: to the model's trained context")
      ->check(CLI::Range(int64_t{-1}, int64_t{1} << 30))
      ->capture_default_str();
  generation->add_option("--temp", g.sampling.temperature, "temperature; 0: always the most probable token")
      ->capture_default_str();
  generation->add_option("--top-k", g.sampling.top_k, "draw among the k most probable; 0: off")
      ->capture_default_str();
  generation->add_option("--top-p", g.sampling.top_p, "draw among those that make up p; 1: off")
      ->capture_default_str();
  generation->add_option("--min-p", g.sampling.min_p, "leave out those under p of the best; 0: off")
      ->capture_default_str();
  generation->add_option("--repeat-penalty", g.sampling.repeat_penalty, "penalty on repeated tokens; 1: off")
      ->capture_default_str();
  generation->add_option("--repeat-last-n", g.sampling.penalty_last_n, "tokens the penalties look back on")
      ->capture_default_str();
  generation->add_option("--frequency-penalty", g.sampling.frequency_penalty, "penalty by count; 0: off")
      ->capture_default_str();
  generation->add_option("--presence-penalty", g.sampling.presence_penalty, "penalty by presence; 0: off")
      ->capture_default_str();
  generation->add_option("--seed", g.sampling.seed, "seed of the draw; without it a random one");
  generation->add_option("--stop", g.stop, "end the answer before this text; may be repeated")
      ->type_name("TEXT")
      ->take_all();
  generation->add_flag("--ignore-eos", g.ignore_end, "go on past end-of-generation tokens");

  auto* output = command->add_option_group("Output");
  output->add_flag("--json", flags->json, "print one JSON object (the trace) instead of the text");
  output->add_option("--trace", flags->trace, "write what was kept and measured as JSON (docs/trace.md)")
      ->type_name("FILE");
  output->add_flag("-v,--verbose", flags->verbose, "say what is loaded and what memory it takes");
  output->add_flag("-q,--quiet", flags->quiet, "leave out the closing table");
  command->callback([flags] { run(*flags); });
}

}  // namespace windowkv::cli
