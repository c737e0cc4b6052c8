// windowkv inspect: what a model's caches take, and what of a prompt the cache will remember.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/inspect_retrieval.h"
#include "cli/interrupt.h"
#include "cli/kept_text.h"
#include "cli/layer_ranges.h"
#include "cli/length_marks.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

struct InspectFlags {
  ModelFlags model;
  PolicyFlags policy;
  PromptFlags prompt;
  RetrievalFlags retrieval;
  std::vector<int64_t> lengths;
  std::vector<std::string> budgets = {"6%", "12%", "25%"};
  std::string color = "auto";
  std::vector<std::string> layers;
  bool detail = false;
  bool kept_only = false;
};

void show_model(const Model& model) {
  const auto& hp = model.hparams();
  std::string text;
  auto line = [&](const char* name, const std::string& value) {
    text += fmt::format("{:<18}{}\n", name, value);
  };
  line("model", hp.name.empty() ? model.path() : hp.name);
  line("family", hp.family);
  line("weights", fmt::format("{}, mostly {}", bytes_text(model.weight_bytes()), model.weight_type()));
  line("buffers", fmt::format("{} on {}", fmt::join(model.buffers(), ", "), model.device_name()));
  line("layers", fmt::format("{}", hp.n_layer));
  line("heads", fmt::format("{} query heads, {} KV heads, head size {}", hp.n_head, hp.n_head_kv, hp.d_head));
  line("embedding", fmt::format("{}, feed-forward {}", hp.n_embd, hp.n_ff));
  line("vocabulary", fmt::format("{} tokens", hp.n_vocab));
  line("trained context", fmt::format("{} tokens", hp.n_ctx_train));
  line("fingerprint", hp.fingerprint);
  line("calibration",
       model.calibration().empty() ? "none: all layers keep the same number of tokens" : model.calibration());
  line("KV cache", fmt::format("{} per token over {} layers, F16",
                               bytes_text(hp.kv_layer_bytes_per_token() * hp.n_layer), hp.n_layer));
  print(text);
}

/// What the longest prompt takes of each device, where there are several.
void show_devices(const InspectFlags& flags, const Model& model, const Engine& engine, int64_t n, Task task) {
  if (model.devices().size() == 1) return;
  std::vector<std::vector<std::string>> rows = {
      {fmt::format("{} tokens", n), "budget", "kept", "one layer", "hidden states", "all", "free"}};
  for (const auto& budget : flags.budgets)
    for (const auto& [device, plan, available] :
         engine.plan_devices(n, *flags.policy.make(model.hparams(), task, "windowkv", budget)))
      rows.push_back({device, budget, bytes_text(plan.kv_kept), bytes_text(plan.kv_scratch),
                      bytes_text(plan.hidden), bytes_text(plan.total()), bytes_text(available)});
  print("\n" + table_text(rows));
}

void show_sizes(const InspectFlags& flags, const Model& model, const Engine& engine) {
  const auto& hp = model.hparams();
  auto lengths = flags.lengths;
  if (lengths.empty())
    for (int64_t n = 1024; n <= std::max(4096, hp.n_ctx_train) && n <= 131072; n *= 2) lengths.push_back(n);
  // Without a prompt there is nothing to tell a task from.
  const Task task = flags.policy.task.choice()(kNeutralTask, "").task;
  std::vector<std::vector<std::string>> rows = {
      {"prompt", "budget", "full cache", "kept", "share", "one layer", "peak", "hidden states"}};
  LengthMarks marks(hp);
  for (auto n : lengths)
    for (const auto& budget : flags.budgets) {
      const auto plan = engine.plan(n, *flags.policy.make(hp, task, "windowkv", budget));
      rows.push_back({marks.text(n), budget, bytes_text(plan.kv_full), bytes_text(plan.kv_kept),
                      fmt::format("{:.1f} %", 100.0 * static_cast<double>(plan.kv_kept) /
                                                  static_cast<double>(plan.kv_full)),
                      bytes_text(plan.kv_scratch), bytes_text(plan.peak_kv()), bytes_text(plan.hidden)});
    }
  print("\n" + table_text(rows) + marks.note());
  show_devices(flags, model, engine, lengths.back(), task);
}

/// The prompt as text, with what the caches keep of it.
void show_kept(const InspectFlags& flags, const Model& model, Engine& engine) {
  const auto [prompt, text] = flags.prompt.read(model);
  const auto task = flags.policy.task.choice()(kNeutralTask, text);
  const auto policy = flags.policy.make(model.hparams(), task.task);
  const auto wanted = parse_layers(flags.layers, model.hparams().n_layer);
  check_context(model.hparams(), static_cast<int64_t>(prompt.size()));
  Sequence sequence;
  PrefillOptions options;
  options.cancelled = interrupted;
  Progress progress("prefill");
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  engine.prefill(sequence, prompt, *policy, options);
  progress.clear();

  const KeptTextStyle style{in_color(flags.color), flags.kept_only};
  const auto layers = kept_layers(sequence);
  std::string out = "\n";
  if (policy->config() != nullptr)
    out += fmt::format("{:<18}{} ({})\n", "task", to_string(task.task), describe(task));
  out += fmt::format("{:<18}{} (of {} prompt tokens)\n", "tokens kept",
                     fmt::join(kept_by_layers(sequence.kept), ", "), prompt.size());
  if (const auto budget = policy->budget();
      budget && budget->below_floor(static_cast<int64_t>(prompt.size())))
    out += fmt::format("{:<18}prompts of up to {} tokens are kept whole\n", "", budget->floor());
  const bool detail = flags.detail || !flags.layers.empty();
  if (!detail) {
    out += "\n" + kept_legend("layers and KV heads", style) + "\n" +
           kept_text(model.vocab(), prompt, overall_shares(layers), style);
  } else {
    out += "\n" + kept_legend("KV heads", style);
    for (const auto& one : layers) {
      const auto first = wanted.begin() + one.first;
      if (!flags.detail &&
          std::find(first, wanted.begin() + one.last + 1, true) == wanted.begin() + one.last + 1)
        continue;
      out += fmt::format("\n{}: {} tokens{}\n{}", layers_text(one.first, one.last), one.kept,
                         one.by_head ? " in each KV head" : "",
                         kept_text(model.vocab(), prompt, one.shares, style));
    }
  }
  show_model(model);
  print(out);
}

void inspect(const InspectFlags& flags) {
  catch_interrupts();
  const auto model = flags.model.load();
  Engine engine(*model, flags.model.engine());
  if (flags.retrieval.wanted) {
    inspect_retrieval(flags.retrieval, flags.policy, flags.prompt, *model, engine);
    return;
  }
  if (!flags.prompt.given() && (flags.detail || !flags.layers.empty()))
    throw Error("--detail and --layers show what is kept of a prompt; give one with -p TEXT or -f FILE");
  if (flags.prompt.given()) return show_kept(flags, *model, engine);
  show_model(*model);
  show_sizes(flags, *model, engine);
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto flags = std::make_shared<InspectFlags>();
  auto* command =
      app.add_subcommand("inspect", "Show a model, its cache sizes, and what is kept of a prompt");
  command->footer(
      "Without a prompt: how much memory the cache takes at several prompt lengths and budgets. With one: "
      "its\n"
      "text, shaded by the share of layers and KV heads that keep each token.\n"
      "Examples:\n"
      "  windowkv inspect -m model.gguf --lengths 8192,32768 --budgets 12%,2048\n"
      "  windowkv inspect -m model.gguf -f book.txt -p \"Question: who is the killer?\" --color always | "
      "less -R\n"
      "  windowkv inspect -m model.gguf -f book.txt -p \"Question: who is the killer?\" --layers 0,8-11\n"
      "  windowkv inspect -m model.gguf --retrieval -f book.txt -p \"Question: who is the killer?\"");
  flags->model.add_to(*command);
  auto* group = command->add_option_group("Sizes");
  add_lengths(*group, "--lengths", flags->lengths,
              "prompt lengths in tokens; 1k is 1,024 (default: powers of two)");
  group
      ->add_option("--budgets", flags->budgets,
                   "cache budgets: tokens (N), percent of the prompt (P%), or percent with a floor (P%:N)")
      ->delimiter(',')
      ->capture_default_str();
  flags->prompt.add_to(*command);
  auto* text = command->add_option_group("Kept text");
  text->add_flag("--detail", flags->detail,
                 "show the text for every layer; adjacent layers that keep the same are shown together");
  text->add_option("--layers", flags->layers, "show the text for these layers, such as 0,5-8")
      ->delimiter(',')
      ->type_name("N,N-M,...");
  text->add_flag("--kept-only", flags->kept_only, "replace text that is dropped everywhere by \"...\"");
  text->add_option("--color", flags->color,
                   "shade the text: auto (on a terminal, unless NO_COLOR is set), always or never")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->capture_default_str();
  flags->policy.add_to(*command);
  flags->retrieval.add_to(*command);
  command->callback([flags] { inspect(*flags); });
}

}  // namespace windowkv::cli
