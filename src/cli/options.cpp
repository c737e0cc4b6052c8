#include "cli/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "cli/lost_server.h"
#include "cli/output.h"
#include "cli/provenance.h"
#include "hub/hub.h"
#include "support/file.h"
#include "support/utf8.h"
#include "windowkv/error.h"

namespace windowkv::cli {

void ModelFlags::add_to(CLI::App& app) {
  auto* group = app.add_option_group("Model");
  auto* file = group->add_option("-m,--model", path, "GGUF model file")->type_name("FILE");
  auto* repo = group
                   ->add_option("--hf-repo", hub.repo,
                                "in place of -m: a model from Hugging Face, downloaded once into the cache "
                                "that llama.cpp uses too; QUANT is Q4_K_M unless given, or the first there "
                                "is; also -hf")
                   ->type_name("USER/REPO[:QUANT]")
                   ->excludes(file);
  group->add_option("--hf-file", hub.file, "this file of the repository; also -hff")
      ->type_name("FILE")
      ->needs(repo);
  group->add_option("--hf-token", hub.token, "access token, if not the one in HF_TOKEN; also -hft")
      ->type_name("TOKEN")
      ->needs(repo);
  group->add_flag("--offline", hub.offline, "use the cached model and no network");
  group->add_option("-t,--threads", threads, "CPU threads; 0: one a core")
      ->check(CLI::Range(0, 512))
      ->capture_default_str();
  group
      ->add_option(
          "--device", device,
          "what holds the layers: auto (the --rpc servers and the GPUs ggml finds, else the CPU), or "
          "names in the layers' order, such as cpu or CUDA0,RPC0; also -dev")
      ->capture_default_str();
  group
      ->add_option("--rpc", rpc,
                   "other machines that hold layers, where windowkv rpc-server runs: RPC0, RPC1, ...")
      ->delimiter(',')
      ->type_name("HOST:PORT,...");
  group
      ->add_option(
          "--tensor-split", tensor_split,
          "how the layers are shared among the devices, such as 3,1; without it as their free memory; "
          "also -ts")
      ->delimiter(',')
      ->type_name("N,...");
  group->add_flag("--no-blas", no_blas,
                  "leave large products to ggml's own kernels where its BLAS backend would be faster");
  group->add_flag("--no-mmap", no_mmap, "read the weights into memory instead of mapping the file");
  group
      ->add_option(
          "--calibration", calibration,
          "what each layer needs of the cache (windowkv calibrate): a file, auto (the one beside the "
          "model), none")
      ->capture_default_str();
  group->add_option("--chunk", chunk, "prompt tokens that go through a layer at once")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  group
      ->add_option("--kv-type", kv_type,
                   fmt::format("how the KV cache is stored: {}", fmt::join(kv_type_names(), ", ")))
      ->capture_default_str();
  group->add_option("--kv-type-k,--cache-type-k", kv_type_k, "the same for K alone; also -ctk")
      ->type_name("TYPE");
  group->add_option("--kv-type-v,--cache-type-v", kv_type_v, "the same for V alone; also -ctv")
      ->type_name("TYPE");
}

EngineOptions ModelFlags::engine() const {
  const auto either = parse_kv_type(kv_type);
  return {chunk,
          {kv_type_k.empty() ? either : parse_kv_type(kv_type_k),
           kv_type_v.empty() ? either : parse_kv_type(kv_type_v)}};
}

const std::string& ModelFlags::file() const {
  if (!path.empty() || !found_.empty()) return path.empty() ? found_ : path;
  if (hub.repo.empty()) throw CLI::RequiredError("-m FILE or -hf USER/REPO");
  Progress progress("download");
  const hub::Listener listener{interrupted,
                               [&](int64_t done, int64_t total) { progress.update(done, total); },
                               [&](const std::string& line) {
                                 progress.clear();
                                 fmt::print(stderr, "windowkv: {}\n", line);
                               }};
  found_ = hub::find_model(hub, listener).string();
  return found_;
}

std::unique_ptr<Model> ModelFlags::load(bool weights) const {
  if (!rpc.empty()) end_when_server_is_lost();
  ModelOptions options{device, threads, !no_blas, !no_mmap, weights, calibration, rpc, tensor_split};
  const auto& gguf = file();
  Progress progress("loading weights");
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  auto model = Model::load(gguf, options);
  progress.clear();
  return model;
}

void ClassifierFlags::add_to(CLI::App& group) {
  group
      .add_option("--task-threshold", threshold,
                  fmt::format("the classifier decides where its probability is at least this, else it is {}",
                              to_string(kNeutralTask)))
      ->check(CLI::Range(0.5, 1.0))
      ->capture_default_str();
  group
      .add_option("--classifier", path,
                  "decide with this one: a BERT classifier as GGUF, or what windowkv classify --train wrote")
      ->type_name("FILE");
  group
      .add_option("--classifier-labels", labels,
                  "what the GGUF's outputs stand for, where it does not say: localization,aggregation or the "
                  "reverse")
      ->delimiter(',')
      ->type_name("A,B");
}

std::shared_ptr<const TaskClassifier> ClassifierFlags::load() const {
  if (!path.empty()) return TaskClassifier::load(path, labels);
  if (!labels.empty()) throw Error("--classifier-labels needs --classifier FILE");
  return nullptr;
}

void TaskFlags::add_to(CLI::App& app, bool rows) {
  auto* group = app.add_option_group("Task", "What kind of question the prompt asks (docs/classifier.md)");
  group
      ->add_option("--task", task,
                   fmt::format("auto (told from the text), {}localization (questions, lookup) or aggregation "
                               "(summaries, few-shot, counting, code)",
                               rows ? "given (what the rows say), " : ""))
      ->capture_default_str();
  classifier.add_to(*group);
}

std::string TaskFlags::text() const {
  if (task != "auto") return task;
  return fmt::format("auto {} {} {}", classifier.threshold,
                     classifier.path.empty() ? "" : fnv1a64_of_file(classifier.path),
                     fmt::join(classifier.labels, ","));
}

void PolicyFlags::add_to(CLI::App& app, bool fixed_policy, bool rows) {
  auto* group = app.add_option_group("KV cache", "What of the prompt the cache keeps (arXiv 2503.17922)");
  if (!fixed_policy) {
    group->add_option("--kv", kv, fmt::format("policy: {}", fmt::join(policy_names(), ", ")))
        ->capture_default_str();
    group
        ->add_option(
            "--kv-budget", budget,
            "prompt tokens to keep a layer, on average: a count (512), a share of the prompt (12%), or "
            "a share with a floor (12%:1024: 12 %, but at least 1,024 tokens)")
        ->type_name("N|P%|P%:N")
        ->capture_default_str();
  }
  group
      ->add_option("--preset", preset,
                   fmt::format("the method's numbers: {}", fmt::join(preset_names(), ", ")))
      ->capture_default_str();
  for (const auto& setting : selection_settings())
    group
        ->add_option_function<std::string>(
            fmt::format("--{}", setting.name),
            [this, &setting](const std::string& text) { setting.set(numbers, text); },
            std::string(setting.help))
        ->type_name(std::string(setting.value));
  task.add_to(app, rows);
}

std::unique_ptr<Policy> PolicyFlags::make(const HParams& hp, Task kind) const {
  return make(hp, kind, kv, budget);
}

std::unique_ptr<Policy> PolicyFlags::make(const HParams& hp, Task kind, const std::string& kv_name,
                                          const std::string& budget_text) const {
  return make_policy(kv_name, {Budget::parse(budget_text), make_config(preset, kind, hp.n_layer, numbers)});
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
                   fmt::format("policies to compare: {}; with settings: windowkv:group=1:pyramid=flat{}",
                               fmt::join(policy_names(), ", "), note))
      ->delimiter(',')
      ->capture_default_str();
  group
      ->add_option("-b,--budgets,--kv-budget", budgets,
                   "prompt tokens kept, averaged over layers, each for every policy: N or P%")
      ->delimiter(',')
      ->capture_default_str();
}

void add_lengths(CLI::App& app, const std::string& name, std::vector<int64_t>& lengths,
                 const std::string& help) {
  CLI::Validator thousands = CLI::AsNumberWithUnit(std::map<std::string, int64_t>{{"k", 1024}});
  auto* option = app.add_option(name, lengths, help)
                     ->delimiter(',')
                     ->transform(thousands.description(""))
                     ->check(CLI::Range(int64_t{1}, int64_t{1} << 28).description(""))
                     ->type_name("N,...");
  if (!lengths.empty()) option->capture_default_str();
}

void sort_unique(std::vector<int64_t>& lengths) {
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
}

void PromptFlags::add_to(CLI::App& app) {
  auto* group = app.add_option_group("Prompt");
  group->add_option("-p,--prompt", text, "prompt text; after the file's where both are given")
      ->type_name("TEXT");
  group->add_option("-f,--file", file, "file with the prompt; - for standard input")->type_name("FILE");
  group->add_option("--tokens", tokens_file, "the prompt as a JSON list of token ids; - for standard input")
      ->type_name("FILE");
  group->add_option("--system", system, "system message, for models with a chat template")->type_name("TEXT");
  group->add_flag("--no-chat", no_chat, "give the text as it is, without the model's chat template");
}

namespace {

std::vector<Token> read_ids(const std::string& path) {
  try {
    return nlohmann::json::parse(read_file(path)).get<std::vector<Token>>();
  } catch (const nlohmann::json::exception& e) {
    throw Error(fmt::format("{}: not a JSON list of token ids: {}", path, e.what()));
  }
}

/// The text of ids that may be no tokens of the model; "" without a vocabulary.
std::string text_of(const Model& model, const std::vector<Token>& ids) {
  const auto* vocab = model.find_vocab();
  std::string out;
  for (const auto id : ids)
    if (vocab != nullptr && id >= 0 && id < vocab->size()) out += vocab->piece(id);
  return out;
}

}  // namespace

std::string PromptFlags::read_text() const {
  std::string prompt = file.empty() ? "" : read_text_file(file);
  if (utf8_first_error(text) != std::string::npos) throw Error("the text of -p is not UTF-8");
  if (!prompt.empty() && !text.empty()) prompt += "\n\n";
  prompt += text;
  if (prompt.empty())
    throw Error(given() ? "the prompt is empty"
                        : "no prompt; give one with -p TEXT, -f FILE or --tokens FILE");
  return prompt;
}

Prompt PromptFlags::read(const Model& model) const {
  if (!tokens_file.empty()) {
    if (!text.empty() || !file.empty()) throw Error("--tokens is the whole prompt; leave out -p and -f");
    auto ids = read_ids(tokens_file);
    auto words = text_of(model, ids);
    return {std::move(ids), std::move(words)};
  }
  auto user = read_text();
  const auto& vocab = model.vocab();
  if (!no_chat && vocab.has_chat_template()) {
    std::vector<ChatMessage> messages;
    if (!system.empty()) messages.push_back({"system", system});
    messages.push_back({"user", user});
    return {vocab.tokenize(vocab.apply_chat_template(messages)), std::move(user)};
  }
  if (!system.empty())
    throw Error("--system needs a chat template; the model has none or --no-chat is given");
  return {vocab.tokenize(user), std::move(user)};
}

void check_context(const HParams& hp, int64_t n) {
  if (n > hp.n_ctx_train)
    warn(fmt::format("the prompt has {} tokens, the model was trained for {}; answers may be poor", n,
                     hp.n_ctx_train));
}

}  // namespace windowkv::cli
