// windowkv run: one prompt, one answer.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/grammar.h"
#include "cli/help.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/store_flags.h"
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
  GenerateOptions generate;
  int64_t seed = -1;
  std::string grammar_file;
  int64_t context = -1;  // of prompt and answer; 0: the trained one; below: any
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

/// The most tokens of an answer to a prompt of n tokens. Throws Error where -c leaves no room for one.
int64_t answer_tokens(const RunFlags& flags, const HParams& hp, int64_t n) {
  const int64_t wanted = flags.generate.max_tokens;
  if (flags.context < 0) return wanted >= 0 ? wanted : std::max<int64_t>(1, hp.n_ctx_train - n);
  const int64_t context = flags.context > 0 ? flags.context : hp.n_ctx_train;
  if (n + (wanted == 0 ? 0 : 1) > context)
    throw Error(
        fmt::format("the prompt has {} tokens and does not fit in the {} of -c {}; shorten it, or omit -c", n,
                    context, flags.context));
  return wanted >= 0 ? std::min(wanted, context - n) : context - n;
}

GenerateOptions generate_options(const RunFlags& flags) {
  auto options = flags.generate;
  options.sampling.seed = static_cast<uint32_t>(flags.seed);  // -1 is the random one
  if (!flags.grammar_file.empty()) options.sampling.grammar = read_text_file(flags.grammar_file);
  options.sampling.validate();
  if (!options.sampling.grammar.empty()) check_grammar(options.sampling.grammar, nullptr);
  if (flags.prompt.escape)
    for (auto& stop : options.stop) stop = unescape(stop);
  options.cancelled = interrupted;
  if (!flags.json) options.on_text = print;
  return options;
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
  for (const auto& source : sources) {
    auto& q = questions.emplace_back(Question{source.prompt(model)});
    q.task = task_choice(kNeutralTask, q.prompt.text);
    q.policy = flags.policy.make(model.hparams(), q.task.task);
    q.most_tokens = answer_tokens(flags, model.hparams(), q.tokens());
    check_context(model.hparams(), q.tokens(), q.most_tokens);
    check_policy(flags.policy, *q.policy, q.tokens());
  }
  return questions;
}

/// The store that the questions need, if any.
std::optional<PrefixStore> store_of(const RunFlags& flags, const Model& model,
                                    std::vector<Question>& questions) {
  const bool recalls = std::ranges::any_of(questions, [](const auto& q) { return q.policy->recall() > 0; });
  if (questions.size() == 1 && !recalls && !flags.store.given()) return std::nullopt;
  const auto longest = std::ranges::max_element(questions, {}, &Question::tokens);
  auto store = flags.store.make(model, longest->tokens());
  if (!store && recalls) {
    warn("--recall is not used: it needs a prefix store");
    auto once = flags.policy;
    once.recall = "off";
    for (auto& q : questions) q.policy = once.make(model.hparams(), q.task.task);
  }
  if (store && !flags.store.load.empty())
    if (const int64_t common = store->common_prefix(questions.front().prompt.tokens);
        common < static_cast<int64_t>(store->tokens().size()))
      warn(fmt::format("{}: the prompt begins with {} of the {} saved tokens; the rest of it is read",
                       flags.store.load, common, store->tokens().size()));
  return store;
}

void run(const RunFlags& flags) {
  catch_interrupts();
  if (flags.quiet) Progress::silence();
  auto options = generate_options(flags);
  const auto trace = open_output(flags.trace);
  const auto sources = flags.prompt.read();
  if (trace && sources.size() > 1) throw Error("--trace takes one question; give -p once");

  const auto task_choice = flags.policy.task.choice();
  flags.model.file();  // a download is no part of loading
  const auto start = Clock::now();
  const auto model = flags.model.load();
  const double load_ms = ms_since(start);
  if (!options.sampling.grammar.empty()) check_grammar(options.sampling.grammar, &model->vocab());
  auto questions = questions_of(flags, sources, task_choice, *model);
  auto store = store_of(flags, *model, questions);

  Engine engine(*model, flags.model.engine());
  auto answers = nlohmann::ordered_json::array();
  for (size_t i = 0; i < questions.size(); ++i) {
    const auto& [prompt, task, policy, most_tokens] = questions[i];
    options.max_tokens = most_tokens;
    PrefillOptions prefill_options;
    prefill_options.reserve = std::min<int64_t>(most_tokens, 256);
    prefill_options.cancelled = interrupted;
    prefill_options.store = store ? &*store : nullptr;
    Progress progress("prefill");
    prefill_options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
    if (flags.verbose) describe(*model, engine, *policy, questions[i].tokens(), prefill_options.reserve);

    Sequence sequence;
    const auto logits = engine.prefill(sequence, prompt.tokens, *policy, prefill_options);
    progress.clear();
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
    if (generation.reason == StopReason::kCancelled) throw ExitWith{interrupted_exit()};
  }
  if (flags.json) print(json_text(answers.size() == 1 ? answers.front() : answers, 2));
}

}  // namespace

void add_run(CLI::App& app) {
  auto flags = std::make_shared<RunFlags>();
  auto* command = app.add_subcommand("run", "Answer one prompt");
  command->footer(
      "The answer goes to standard output, the report to standard error. Piped text is the prompt, or\n"
      "with -p its beginning; if nothing arrives within five seconds, -p alone is answered (</dev/null\n"
      "keeps a script's own input out). llama.cpp's names for these options work too.\n"
      "\n"
      "Examples:\n"
      "  windowkv run -m model.gguf -f book.txt -p \"Who sent the letter?\"\n"
      "  windowkv run -m model.gguf -f book.txt -p \"Who sent the letter?\" -p \"What did it say?\"\n"
      "  cat report.txt | windowkv run -m model.gguf -p \"Summarize the report.\" --kv-budget 2048\n"
      "  windowkv run -m model.gguf -f book.txt -p \"Who sent the letter?\" --kv full --json");
  flags->model.add_to(*command);
  flags->prompt.add_to(*command, /*several=*/true);
  flags->policy.add_to(*command);
  flags->store.add_to(*command);

  auto& g = flags->generate;
  auto* generation = command->add_option_group("Answer");
  generation
      ->add_option("-n,--predict,--n-predict", g.max_tokens,
                   "maximum tokens of the answer; -1: up to the model's trained context")
      ->check(CLI::Range(int64_t{-1}, int64_t{1} << 30))
      ->capture_default_str();
  generation
      ->add_option(
          "-c,--ctx-size", flags->context,
          "maximum tokens of prompt and answer together; 0: the model's trained context (default: no "
          "limit; the cache is as large as the prompt needs)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30));
  generation
      ->add_option("--temp,--temperature", g.sampling.temperature,
                   "sampling temperature; 0: always the most probable token")
      ->capture_default_str();
  generation->add_option("--top-k", g.sampling.top_k, "sample from the K most probable tokens; 0: off")
      ->capture_default_str();
  generation
      ->add_option("--top-p", g.sampling.top_p,
                   "sample from the most probable tokens that together have this probability; 1: off")
      ->capture_default_str();
  generation
      ->add_option("--min-p", g.sampling.min_p,
                   "exclude tokens below this share of the best token's probability; 0: off")
      ->capture_default_str();
  generation->add_option("--repeat-penalty", g.sampling.repeat_penalty, "penalty on repeated tokens; 1: off")
      ->capture_default_str();
  generation
      ->add_option("--repeat-last-n", g.sampling.penalty_last_n,
                   "number of last tokens the penalties apply to")
      ->capture_default_str();
  generation
      ->add_option("--frequency-penalty", g.sampling.frequency_penalty,
                   "penalty on a token for each time it occurred; 0: off")
      ->capture_default_str();
  generation
      ->add_option("--presence-penalty", g.sampling.presence_penalty,
                   "penalty on tokens that occurred at all; 0: off")
      ->capture_default_str();
  generation->add_option("-s,--seed", flags->seed, "sampling seed; -1: a different one each time")
      ->check(CLI::Range(int64_t{-1}, int64_t{0xFFFFFFFF}))
      ->capture_default_str();
  generation->add_option("--stop", g.stop, "end the answer before this text; may be given several times")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  auto* ignore = generation->add_flag("--ignore-eos", g.ignore_end, "continue past end-of-generation tokens");
  auto* grammar =
      generation
          ->add_option("--grammar", g.sampling.grammar,
                       "constrain the answer with a grammar in llama.cpp's GBNF, with a rule root")
          ->type_name("TEXT")
          ->excludes(ignore);
  generation->add_option("--grammar-file", flags->grammar_file, "read the grammar from a file")
      ->type_name("FILE")
      ->excludes(grammar, ignore);
  show_in_short_help(*generation, {"--predict", "--temp"});

  auto* output = command->add_option_group("Output");
  output->add_flag("--json", flags->json, "print the answer and the report as one JSON object");
  output
      ->add_option("--trace", flags->trace,
                   "write tokens, kept positions and all measurements to a JSON file (docs/trace.md)")
      ->type_name("FILE");
  output->add_flag("-v,--verbose", flags->verbose, "show what is loaded, and memory use");
  output->add_flag("-q,--quiet", flags->quiet, "do not print the report");
  command->callback([flags] { run(*flags); });
}

}  // namespace windowkv::cli
