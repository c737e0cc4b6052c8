// windowkv inspect: what a model's caches take, and what of a prompt the cache will remember.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/inspect_retrieval.h"
#include "cli/interrupt.h"
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
  line("heads", fmt::format("{} query, {} KV, of {}", hp.n_head, hp.n_head_kv, hp.d_head));
  line("width", fmt::format("{}, feed-forward {}", hp.n_embd, hp.n_ff));
  line("vocabulary", fmt::format("{} tokens", hp.n_vocab));
  line("trained context", fmt::format("{} tokens", hp.n_ctx_train));
  line("fingerprint", hp.fingerprint);
  line("calibration", model.calibration().empty() ? "none, every layer keeps the same" : model.calibration());
  line("KV cache", fmt::format("{} a token in {} layers, F16",
                               bytes_text(hp.kv_layer_bytes_per_token() * hp.n_layer), hp.n_layer));
  print(text);
}

/// What the longest prompt takes of each device, where there are several.
void show_devices(const InspectFlags& flags, const Model& model, const Engine& engine, int64_t n, Task task) {
  if (model.devices().size() == 1) return;
  std::vector<std::vector<std::string>> rows = {
      {fmt::format("{} tokens on", n), "budget", "kept", "one layer", "hidden states", "all", "free"}};
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
  for (auto n : lengths)
    for (const auto& budget : flags.budgets) {
      const auto plan = engine.plan(n, *flags.policy.make(hp, task, "windowkv", budget));
      rows.push_back({fmt::format("{}", n), budget, bytes_text(plan.kv_full), bytes_text(plan.kv_kept),
                      fmt::format("{:.1f} %", 100.0 * static_cast<double>(plan.kv_kept) /
                                                  static_cast<double>(plan.kv_full)),
                      bytes_text(plan.kv_scratch), bytes_text(plan.peak_kv()), bytes_text(plan.hidden)});
    }
  print("\n" + table_text(rows));
  show_devices(flags, model, engine, lengths.back(), task);
}

/// The prompt as text, runs of tokens marked by the groups that keep them.
void show_kept(const InspectFlags& flags, const Model& model, Engine& engine) {
  const auto [prompt, text] = flags.prompt.read(model);
  const auto task = flags.policy.task.choice()(kNeutralTask, text);
  const auto policy = flags.policy.make(model.hparams(), task.task);
  check_context(model.hparams(), static_cast<int64_t>(prompt.size()));
  Sequence sequence;
  PrefillOptions options;
  options.cancelled = interrupted;
  Progress progress("prefill");
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  engine.prefill(sequence, prompt, *policy, options);
  progress.clear();

  const auto& groups = sequence.groups;
  // Which groups keep each token, as "0,2".
  std::vector<std::vector<size_t>> keepers(prompt.size());
  for (size_t g = 0; g < groups.size(); ++g)
    for (auto [first, last] : groups[g].kept)
      for (auto i = first; i < last; ++i) keepers[static_cast<size_t>(i)].push_back(g);

  const bool color = flags.color == "always" || (flags.color == "auto" && isatty(STDOUT_FILENO) != 0);
  auto style = [](size_t g) { return fmt::format("\x1b[{}m", 41 + g % 6); };
  std::string out = "\n";
  if (policy->config() != nullptr) out += fmt::format("task {} ({})\n", to_string(task.task), describe(task));
  for (size_t g = 0; g < groups.size(); ++g) {
    const auto name =
        fmt::format("group {} (layers {}-{})", g, groups[g].group.first_layer, groups[g].group.last_layer);
    out += fmt::format("{}{}{}: {} tokens kept\n", color ? style(g) : "", name, color ? "\x1b[0m" : "",
                       sequence.kept[static_cast<size_t>(groups[g].group.first_layer)]);
  }
  out += color ? "A token has the colour of the lowest group that keeps it, bold where every group does; "
                 "dim text is "
                 "dropped.\n\n"
               : "Kept text stands in [groups| ]; text outside is dropped.\n\n";
  const auto& vocab = model.vocab();
  for (size_t i = 0; i < prompt.size();) {
    size_t end = i;
    std::string run;
    for (; end < prompt.size() && keepers[end] == keepers[i]; ++end) run += vocab.piece(prompt[end], true);
    if (keepers[i].empty()) {
      if (flags.kept_only) run = " ... ";
      out += color ? "\x1b[2m" + run + "\x1b[0m" : run;
    } else if (color) {
      out += fmt::format("{}{}{}\x1b[0m", keepers[i].size() == groups.size() ? "\x1b[1m" : "",
                         style(keepers[i].front()), run);
    } else {
      out += fmt::format("[{}|{}]", fmt::join(keepers[i], ","), run);
    }
    i = end;
  }
  print(out + "\n");
}

void inspect(const InspectFlags& flags) {
  catch_interrupts();
  const auto model = flags.model.load();
  Engine engine(*model, flags.model.engine());
  if (flags.retrieval.wanted) {
    inspect_retrieval(flags.retrieval, flags.policy, flags.prompt, *model, engine);
    return;
  }
  show_model(*model);
  if (flags.prompt.given())
    show_kept(flags, *model, engine);
  else
    show_sizes(flags, *model, engine);
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto flags = std::make_shared<InspectFlags>();
  auto* command =
      app.add_subcommand("inspect", "Show a model, its cache sizes, and what of a prompt would be kept");
  command->footer(
      "Examples:\n"
      "  windowkv inspect -m model.gguf --lengths 8192,32768 --budgets 12%,2048\n"
      "  windowkv inspect -m model.gguf -f book.txt -p \"Question: who is the killer?\" | less -R\n"
      "  windowkv inspect -m model.gguf --retrieval -f book.txt -p \"Question: who is the killer?\"");
  flags->model.add_to(*command);
  auto* group = command->add_option_group("Sizes");
  add_lengths(*group, "--lengths", flags->lengths,
              "prompt lengths, tokens; 1k is 1,024; without them powers of two");
  group->add_option("--budgets", flags->budgets, "budgets: N or P%")->delimiter(',')->capture_default_str();
  flags->prompt.add_to(*command);
  command->add_option("--color", flags->color, "mark kept text in colour: auto, always, never")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->capture_default_str();
  command->add_flag("--kept-only", flags->kept_only, "leave dropped text out");
  flags->policy.add_to(*command);
  flags->retrieval.add_to(*command);
  command->callback([flags] { inspect(*flags); });
}

}  // namespace windowkv::cli
