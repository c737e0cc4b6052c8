#include "cli/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstring>

#include "cli/help.h"
#include "cli/lost_server.h"
#include "cli/output.h"
#include "cli/provenance.h"
#include "windowkv/error.h"

namespace windowkv::cli {

void ModelFlags::add_to(CLI::App& app) {
  auto* group = app.add_option_group("Model");
  auto* file = group->add_option("-m,--model", path, "GGUF model file")->required()->type_name("FILE");
  hub.add_to(*group, *file);
  group->add_option("-t,--threads", threads, "CPU threads (default, 0 and -1: all cores)")
      ->check(CLI::Range(-1, 512));
  group
      ->add_option("--device", device,
                   "devices for the layers, in order: auto, cpu, or names such as CUDA0,RPC0 (--list-devices "
                   "shows them; auto takes the RPC servers and GPUs, or else the CPU)")
      ->type_name("NAME,...")
      ->capture_default_str();
  group
      ->add_option("--rpc", rpc,
                   "machines running windowkv rpc-server, to be used as the devices RPC0, RPC1, ...")
      ->delimiter(',')
      ->type_name("HOST:PORT,...");
  group
      ->add_option("--tensor-split", tensor_split,
                   "proportions in which the devices share the layers, such as 3,1 (default: by free memory)")
      ->delimiter(',')
      ->check(finite_number())
      ->type_name("N,...");
  auto* some =
      group
          ->add_option("--n-cpu-moe", cpu_experts,
                       "keep the experts of the first N layers in this machine's memory, computed by "
                       "its CPU, so that the rest of a large mixture fits on the device")
          ->check(CLI::Range(0, INT_MAX))
          ->type_name("N");
  group
      ->add_flag_callback(
          "--cpu-moe", [this] { cpu_experts = INT_MAX; }, "the same with all layers")
      ->excludes(some);
  group->add_flag("--no-blas", no_blas, "do not use BLAS for matrix products");
  group->add_flag("--no-mmap", no_mmap, "read the model into memory instead of mapping its file");
  group->add_flag("--no-repack", no_repack,
                  "keep weights on the CPU as they are in the file, without AMX or other repacked layouts");
  group->add_flag("--no-warmup", no_warmup,
                  "do not have a GPU compile its kernels before the first prompt (run, chat and serve do)");
  group->add_flag("--mlock", mlock, "lock the model in memory, so that it is never swapped out");
  group
      ->add_option(
          "--calibration", calibration,
          "layer budgets measured by windowkv calibrate: a file, auto (next to the model, or built in) or "
          "none")
      ->type_name("FILE")
      ->capture_default_str();
  group->add_option("--chunk", chunk, "prompt tokens processed at once during prefill (llama.cpp's -ub)")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  group
      ->add_option("--kv-type", kv_type,
                   fmt::format("data type of the KV cache: {}", fmt::join(kv_type_names(), ", ")))
      ->type_name("TYPE")
      ->capture_default_str();
  group->add_option("--kv-type-k,--cache-type-k", kv_type_k, "data type of K (default: that of --kv-type)")
      ->type_name("TYPE");
  group->add_option("--kv-type-v,--cache-type-v", kv_type_v, "data type of V (default: that of --kv-type)")
      ->type_name("TYPE");
  show_in_short_help(*group, {"--model", "--hf-repo", "--device", "--threads"});
}

EngineOptions ModelFlags::engine() const {
  const auto either = parse_kv_type(kv_type);
  return {chunk,
          {kv_type_k.empty() ? either : parse_kv_type(kv_type_k),
           kv_type_v.empty() ? either : parse_kv_type(kv_type_v)}};
}

const std::string& ModelFlags::file() const {
  if (!hub.given()) return path;
  if (found_.empty()) found_ = hub.find();
  return found_;
}

std::unique_ptr<Model> ModelFlags::load(bool weights) const {
  if (!rpc.empty()) end_when_server_is_lost();
  ModelOptions options{device,  threads,     !no_blas, !no_mmap,     !no_repack,
                       weights, calibration, rpc,      tensor_split, cpu_experts};
  const auto& gguf = file();
  Progress progress("loading weights");
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  options.warning = warn;
  auto model = Model::load(gguf, options);
  progress.clear();
  if (mlock && mlockall(MCL_CURRENT) != 0)
    warn(fmt::format("--mlock: cannot lock the model in memory: {}; `ulimit -l` shows the limit",
                     std::strerror(errno)));
  return model;
}

void ClassifierFlags::add_to(CLI::App& group) {
  auto* sure =
      group
          .add_option("--task-threshold", threshold,
                      fmt::format("minimum probability at which the classifier decides the task; below it, "
                                  "the task is {}",
                                  to_string(kNeutralTask)))
          ->check(CLI::Range(0.5, 1.0))
          ->capture_default_str();
  auto* other = group
                    .add_option("--classifier", path,
                                "task classifier to use instead of the built-in one: a BERT classifier in "
                                "GGUF format, or a file written by windowkv classify --train")
                    ->type_name("FILE");
  auto* names = group
                    .add_option("--classifier-labels", labels,
                                "order of the GGUF classifier's outputs, where its file does not name them: "
                                "localization,aggregation or the reverse")
                    ->delimiter(',')
                    ->type_name("A,B");
  for (auto* option : {sure, other, names}) option->group(kRareOptions);
}

std::shared_ptr<const TaskClassifier> ClassifierFlags::load() const {
  if (!path.empty()) return TaskClassifier::load(path, labels);
  if (!labels.empty()) throw Error("--classifier-labels needs --classifier FILE");
  return nullptr;
}

void TaskFlags::add_to(CLI::App& app, bool has_rows) {
  rows_ = has_rows;
  auto* group = app.add_option_group("Task");
  group
      ->add_option("--task", task,
                   fmt::format("kind of question: auto (a classifier reads the prompt), {}localization "
                               "(questions, lookup) or aggregation (summaries, few-shot, counting, code)",
                               rows_ ? "given (each sample's own), " : ""))
      ->type_name("NAME")
      ->capture_default_str();
  classifier.add_to(*group);
}

eval::TaskChoice TaskFlags::choice() const {
  if (!rows_) refuse_given();
  return eval::TaskChoice::parse(task, classifier.threshold, classifier.load());
}

void TaskFlags::refuse_given() const {
  if (task == "given")
    throw Error("--task given is for samples that bring their task; use auto, localization or aggregation");
}

std::string TaskFlags::text() const {
  if (task != "auto") return task;
  return fmt::format("auto {} {} {}", classifier.threshold,
                     classifier.path.empty() ? "" : fnv1a64_of_file(classifier.path),
                     fmt::join(classifier.labels, ","));
}

void PolicyFlags::add_to(CLI::App& app, bool fixed_policy, bool rows) {
  auto* group = app.add_option_group("KV cache");
  if (!fixed_policy) {
    group->add_option("--kv", kv, fmt::format("cache policy: {}", fmt::join(policy_names(), ", ")))
        ->type_name("NAME")
        ->capture_default_str();
    budget_option =
        group
            ->add_option("--kv-budget", budget,
                         "prompt tokens to keep in each layer, on average: a number (512, or 2k for "
                         "2,048), a percentage of the prompt (12%), or one with a floor (12%:1k is "
                         "12 %, but at least 1,024 tokens)")
            ->type_name("N|P%|P%:N")
            ->capture_default_str();
  }
  settings = {group
                  ->add_option("--preset", preset,
                               fmt::format("settings of the windowkv policy: {}; the options below change "
                                           "single ones",
                                           fmt::join(preset_names(), ", ")))
                  ->type_name("NAME")
                  ->capture_default_str()};
  for (const auto& setting : selection_settings())
    settings.push_back(group
                           ->add_option_function<std::string>(
                               fmt::format("--{}", setting.name),
                               [this, &setting](const std::string& text) { setting.set(numbers, text); },
                               std::string(setting.help))
                           ->type_name(std::string(setting.value)));
  group
      ->add_option("--kv-budget-total", total,
                   fmt::format("tokens of prompt and answer together that a layer holds at most, {} or "
                               "more (one with a sliding window: what that shows): while a long answer is "
                               "written, the policy chooses what stays, and the "
                               "rest is dropped for good, so that memory and speed stay the same (turns "
                               "--recall off)",
                               kLeastTotal))
      ->type_name("N|off")
      ->capture_default_str();
  group
      ->add_option(
          "--recall", recall,
          fmt::format("choose again what to read of the prompt after every N tokens of the answer, from the "
                      "prefix store: 1 follows the full cache most closely and takes most time; off: only at "
                      "the end of the prompt; auto: {} on the CPU, off elsewhere",
                      kDefaultRecall))
      ->type_name("N|auto|off")
      ->capture_default_str();
  show_in_short_help(*group, {"--kv", "--kv-budget"});
  task.add_to(app, rows);
}

const CLI::Option* PolicyFlags::setting_given() const {
  const auto given =
      std::ranges::find_if(settings, [](const CLI::Option* option) { return option->count() > 0; });
  return given != settings.end() ? *given : nullptr;
}

PolicyFlags PolicyFlags::for_model(const Model& model) const {
  auto decided = *this;
  if (recall == "auto" && (!model.on_cpu() || total != "off")) decided.recall = "off";
  return decided;
}

int PolicyFlags::recall_every() const {
  return recall == "auto" ? (policy_recalls(kv) ? kDefaultRecall : 0) : eval::parse_recall(recall);
}

std::unique_ptr<Policy> PolicyFlags::make(const HParams& hp, Task kind) const {
  return make(hp, kind, kv, budget);
}

std::unique_ptr<Policy> PolicyFlags::make(const HParams& hp, Task kind, const std::string& kv_name,
                                          const std::string& budget_text) const {
  const bool full = kv_name == "full" && kv != "full";  // beside what the flags name
  return make_policy(kv_name,
                     {Budget::parse(budget_text), make_config(preset, kind, hp.n_full_layers(), numbers),
                      kv_name == "full" ? 0 : recall_every(), full ? 0 : eval::parse_total(total)});
}

std::unique_ptr<Policy> PolicyFlags::make_at(const HParams& hp, Task kind,
                                             const std::string& budget_text) const {
  const bool full = budget_text == "full";
  return make(hp, kind, full ? "full" : kv, full ? "100%" : budget_text);
}

eval::Contender contender_of(std::string name, const PolicyFlags& flags, const HParams& hp) {
  eval::Contender contender{.name = std::move(name),
                            .kv = flags.kv,
                            .budget = flags.kv == "full" ? "100%" : flags.budget,
                            .make = [flags, hp](Task task) { return flags.make(hp, task); }};
  contender.make(Task::kLocalization);
  return contender;
}

void ContenderFlags::add_to(CLI::App& app, const std::string& note) {
  auto* group = app.add_option_group("KV cache");
  group
      ->add_option("--policies", policies,
                   fmt::format("policies to compare: {}; settings are added as in windowkv:preset=paper or "
                               "windowkv:window=16{}",
                               fmt::join(policy_names(), ", "), note))
      ->delimiter(',')
      ->type_name("NAME,...")
      ->capture_default_str();
  group
      ->add_option(
          "-b,--budgets,--kv-budget", budgets,
          "prompt tokens to keep in each layer, on average, for every policy: numbers or percentages "
          "of the prompt, or full for the full cache")
      ->delimiter(',')
      ->type_name("N|P%,...")
      ->capture_default_str();
}

CLI::Validator finite_number() {
  const auto check = [](const std::string& text) {
    double value = 0;
    const bool number = CLI::detail::lexical_cast(text, value);  // what is none, the conversion refuses
    return number && !std::isfinite(value) ? fmt::format("{} is no finite number", text) : std::string();
  };
  return {check, ""};
}

CLI::Option* add_limit(CLI::App& app, int64_t& limit, const std::string& help) {
  const auto some = [](const std::string& text) {
    int64_t value = 0;
    return CLI::detail::lexical_cast(text, value) && value == 0
               ? "0 leaves nothing to run; give a number of samples, or -1 for all"
               : std::string();
  };
  return app.add_option("--limit", limit, help + "; -1: all")
      ->check(CLI::Range(int64_t{-1}, int64_t{1} << 30))
      ->check(some)
      ->type_name("N")
      ->capture_default_str();
}

void add_max_length(CLI::App& app, int64_t& length) {
  app.add_option(
         "--max-length", length,
         "maximum tokens of a prompt; longer ones lose their middle; 0: what fits the trained context")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->type_name("N")
      ->capture_default_str();
}

void check_budgets(std::span<const std::string> budgets) {
  for (const auto& budget : budgets)
    if (budget != "full") Budget::parse(budget);
}

CLI::Validator with_message(const CLI::Validator& validator, const std::string& advice) {
  return CLI::Validator(
      [=](std::string& given) {
        const auto before = given;
        try {
          // A unit alone would be one of it.
          const bool number = before.find_first_of("0123456789") != std::string::npos;
          if (number && validator(given).empty()) return std::string();
        } catch (const CLI::ValidationError&) {  // units have their own way
        }
        return fmt::format("\"{}\": {}", before, advice);
      },
      "");
}

void add_lengths(CLI::App& app, const std::string& name, std::vector<int64_t>& lengths,
                 const std::string& help) {
  const CLI::AsNumberWithUnit thousands(std::map<std::string, int64_t>{{"k", 1024}});
  auto* option = app.add_option(name, lengths, help)
                     ->delimiter(',')
                     ->transform(with_message(thousands, "give a number of tokens, as in 4096 or 16k"))
                     ->check(CLI::Range(int64_t{1}, int64_t{1} << 28).description(""))
                     ->type_name("N,...");
  if (!lengths.empty()) option->capture_default_str();
}

void sort_unique(std::vector<int64_t>& lengths) {
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
}

void check_context(const HParams& hp, int64_t n, int64_t answer) {
  if (n > hp.n_ctx_train)
    warn(fmt::format("the prompt has {} tokens, but the model was trained for {}; answers may be poor", n,
                     hp.n_ctx_train));
  else if (n + answer > hp.n_ctx_train)
    warn(fmt::format(
        "the prompt has {} tokens and the answer up to {}, but the model was trained for {} in all; the "
        "end of a long answer may be poor",
        n, answer, hp.n_ctx_train));
}

}  // namespace windowkv::cli
