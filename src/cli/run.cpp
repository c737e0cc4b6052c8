// windowkv run: one prompt, one answer.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/devices.h"
#include "cli/generate_flags.h"
#include "cli/help.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/store_flags.h"
#include "cli/warm_up.h"
#include "support/clock.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

struct RunFlags {
  ModelFlags model;
  PolicyFlags policy;
  PromptFlags prompt;
  StoreFlags store;
  GenerateFlags generate;
  bool json = false;
  bool verbose = false;
  bool quiet = false;
  std::string trace;
};

std::string memory_text(const MemoryPlan& plan) {
  return fmt::format("KV cache {} ({} kept, {} for generated tokens, {} scratch), hidden states {}, other {}",
                     bytes_text(plan.peak_kv()), bytes_text(plan.kv_kept), bytes_text(plan.kv_reserve),
                     bytes_text(plan.kv_scratch), bytes_text(plan.hidden),
                     bytes_text(plan.mask + plan.compute));
}

void describe(const Model& model, const Engine& engine, const Policy& policy, int64_t n, int64_t reserve) {
  const auto& hp = model.hparams();
  tell(fmt::format("model       {} ({}), {} layers, {} query heads, {} KV heads, head size {}, {} {}\n",
                   hp.name.empty() ? model.path() : hp.name, hp.family, hp.n_layer, hp.n_head, hp.n_head_kv,
                   hp.d_head, bytes_text(model.weight_bytes()), model.weight_type()));
  tell(fmt::format("weights     {} on {}\n", fmt::join(model.buffers(), ", "), model.device_name()));
  tell(fmt::format("memory      {}\n", memory_text(engine.plan(n, policy, reserve))));
  if (const auto devices = engine.plan_devices(n, policy, reserve); devices.size() > 1)
    for (const auto& d : devices)
      tell(fmt::format("  {}: {}; {} free\n", d.device, memory_text(d.memory), bytes_text(d.available)));
}

/// What the devices had to tell each other.
void describe_traffic(const Engine& engine, int64_t decoded) {
  auto line = [](const char* name, const DeviceTraffic& t, const std::string& more) {
    if (t.graphs > 0)
      tell(fmt::format("{:<12}{} copies between devices, {}; {} graphs in {} parts{}\n", name, t.copies,
                       bytes_text(t.bytes), t.graphs, t.splits, more));
  };
  const auto decode = engine.decode_traffic();
  line("prefill", engine.prefill_traffic(), "");
  line("decode", decode,
       decoded > 0 ? fmt::format("; {:.1f} copies and {} per token",
                                 static_cast<double>(decode.copies) / static_cast<double>(decoded),
                                 bytes_text(decode.bytes / decoded))
                   : "");
  if (const auto strays = strays_text(engine); !strays.empty()) tell(strays);
}

/// The fewest prompt tokens a layer with which an answer can be expected to be of use.
constexpr int64_t kLeastBudget = 64;

void check_policy(const PolicyFlags& flags, const Policy& policy, int64_t n) {
  if (const auto* setting = flags.setting_given(); setting != nullptr && policy.config() == nullptr)
    warn(fmt::format("{} is a setting of --kv windowkv: it is not used", setting->get_name()));
  if (!flags.budget_given()) return;
  if (!policy.budget()) {
    warn(fmt::format("--kv {} has no budget: --kv-budget {} is not used", flags.kv, flags.budget));
  } else if (const auto kept = policy.budget()->resolve(n); kept < std::min(kLeastBudget, n)) {
    warn(fmt::format("--kv-budget {} keeps {} of the prompt's {} tokens; answers are poor below about {}",
                     flags.budget, kept, n, kLeastBudget));
  }
}

/// A prompt to answer.
struct Question {
  Prompt prompt;
  TaskDecision task;
  std::unique_ptr<Policy> policy;
  int64_t most_tokens = 0;  ///< of the answer

  int64_t tokens() const { return static_cast<int64_t>(prompt.tokens.size()); }
};

std::vector<Question> questions_of(const RunFlags& flags, const std::vector<PromptSource>& sources,
                                   const eval::TaskChoice& task_choice, const Model& model) {
  std::vector<Question> questions;
  const auto policy = flags.policy.for_model(model);
  for (const auto& source : sources) {
    auto& q = questions.emplace_back(Question{source.prompt(model)});
    q.task = task_choice(kNeutralTask, q.prompt.text);
    q.policy = policy.make(model.hparams(), q.task.task);
    q.most_tokens = flags.generate.answer_tokens(model.hparams(), q.tokens());
    check_context(model.hparams(), q.tokens(), q.most_tokens);
    check_policy(flags.policy, *q.policy, q.tokens());
  }
  return questions;
}

/// How many tokens both begin with.
int64_t common_tokens(const Question& a, const Question& b) {
  return std::ranges::mismatch(a.prompt.tokens, b.prompt.tokens).in1 - a.prompt.tokens.begin();
}

/// The store that the questions need, if any.
std::optional<PrefixStore> store_of(const RunFlags& flags, const Model& model,
                                    std::vector<Question>& questions) {
  const bool recalls = std::ranges::any_of(questions, [](const auto& q) { return q.policy->recall() > 0; });
  if (questions.size() == 1 && !recalls && !flags.store.given()) return std::nullopt;
  const auto longest = std::ranges::max_element(questions, {}, &Question::tokens);
  auto store = flags.store.make(model, longest->tokens(), questions.size() > 1 || flags.store.given());
  if (!store && recalls) {
    if (flags.policy.recall != "auto") warn("--recall is not used: it needs a prefix store");
    auto once = flags.policy;
    once.recall = "off";
    for (auto& q : questions) q.policy = once.make(model.hparams(), q.task.task);
  }
  if (store && !flags.store.load.empty())
    warn_of_unused(flags.store.load, *store, questions.front().prompt.tokens, model.hparams().recurrent());
  return store;
}

void run(const RunFlags& flags) {
  catch_interrupts();
  if (flags.quiet) Progress::silence();
  auto options = flags.generate.options(flags.prompt.escape);
  if (!flags.json) options.on_text = print;
  const auto trace = open_output(flags.trace);
  const auto sources = flags.prompt.read();
  if (trace && sources.size() > 1) throw Error("--trace takes one question; give -p once");

  const auto task_choice = flags.policy.task.choice();
  flags.model.file();  // a download is no part of loading
  const auto start = Clock::now();
  const auto model = flags.model.load();
  const double load_ms = ms_since(start);
  check_grammar(options, *model);
  auto questions = questions_of(flags, sources, task_choice, *model);
  auto store = store_of(flags, *model, questions);
  const int64_t saved_common = store ? store->reusable_prefix(questions.front().prompt.tokens) : 0;

  warm_up(*model, flags.model);
  Engine engine(*model, flags.model.engine());
  auto answers = nlohmann::ordered_json::array();
  const auto print_answers = [&] {
    if (flags.json) print(json_text(answers.size() == 1 ? answers.front() : answers, 2));
  };
  for (size_t i = 0; i < questions.size(); ++i) {
    const auto& [prompt, task, policy, most_tokens] = questions[i];
    options.max_tokens = most_tokens;
    PrefillOptions prefill_options;
    prefill_options.reserve = std::min<int64_t>(most_tokens, 256);
    prefill_options.cancelled = interrupted;
    prefill_options.store = store ? &*store : nullptr;
    if (i + 1 < questions.size())
      prefill_options.expected_common = common_tokens(questions[i], questions[i + 1]);
    Progress progress("prefill");
    prefill_options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
    if (flags.verbose) describe(*model, engine, *policy, questions[i].tokens(), prefill_options.reserve);

    Sequence sequence;
    const auto logits = engine.prefill(sequence, prompt.tokens, *policy, prefill_options);
    progress.clear();
    if (flags.policy.recall != "auto" && flags.policy.recall_every() > 0 && !sequence.recall &&
        (store || flags.store.place != "none"))
      warn(fmt::format("--recall {} is not used: {}", flags.policy.recall,
                       sequence.bytes.kept < sequence.bytes.full
                           ? "this policy and budget leave nothing to choose"
                           : "the prompt is kept whole"));
    if (i == 0 && !flags.store.load.empty() && sequence.reused_tokens == 0 && saved_common > 1)
      warn(fmt::format("{}: the prompt is read from its beginning, because {} needs all of its queries",
                       flags.store.load, policy->name()));
    if (i == 0 && !flags.store.save.empty()) store->save(flags.store.save);
    const auto generation = generate(engine, model->find_vocab(), sequence, logits, prompt.tokens, options);

    const RunReport report{*model,     *policy, prompt.tokens, sequence,
                           generation, task,    load_ms,       store ? &*store : nullptr};
    if (flags.json) {
      answers.push_back(answer_json(report));
    } else if (!generation.text.empty()) {
      if (!generation.text.ends_with('\n')) print("\n");
      if (i + 1 < questions.size()) print("\n");
    }
    if (trace) trace->commit(json_text(trace_json(report)));
    if (!flags.quiet) tell(fmt::format("\n{}", summary_text(report)));
    if (flags.verbose) describe_traffic(engine, generation.decoded);
    if (generation.reason == StopReason::kCancelled) {
      print_answers();
      throw ExitWith{interrupted_exit()};
    }
  }
  print_answers();
}

}  // namespace

void add_run(CLI::App& app) {
  auto flags = std::make_shared<RunFlags>();
  flags->policy.recall = "auto";
  auto* command = app.add_subcommand("run", "Answer one prompt");
  command->footer(
      "The answer goes to standard output, the report to standard error. Piped text is the prompt, or\n"
      "with -p its beginning; if nothing arrives within five seconds, -p alone is answered (</dev/null\n"
      "keeps a script's own input out). llama.cpp's names for these options work too.\n"
      "\n"
      "Examples:\n"
      "  windowkv run -m model.gguf -f book.txt -p \"Who sent the letter?\" -p \"What did it say?\"\n"
      "  cat report.txt | windowkv run -m model.gguf -p \"Summarize the report.\" --kv-budget 2048\n"
      "  windowkv run -m model.gguf -f book.txt -p \"Who sent the letter?\" --kv full --json");
  flags->model.add_to(*command);
  flags->prompt.add_to(*command, PromptFlags::Takes::kSeveralPrompts);
  flags->policy.add_to(*command);
  flags->store.add_to(*command);

  flags->generate.add_to(*command);

  auto* output = command->add_option_group("Output");
  output->add_flag(
      "--json", flags->json,
      "print the answer and the report as one JSON object, of several questions an array of them");
  output
      ->add_option("--trace", flags->trace,
                   "write tokens, kept positions and all measurements to a JSON file (docs/trace.md)")
      ->type_name("FILE");
  output->add_flag("-v,--verbose", flags->verbose, "show what is loaded, and memory use");
  output->add_flag("-q,--quiet", flags->quiet, "do not print the report");
  command->callback([flags] { run(*flags); });
}

}  // namespace windowkv::cli
