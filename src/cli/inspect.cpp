// windowkv inspect: what a model's caches take, and what of a prompt the cache will remember.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>

#include "cli/commands.h"
#include "cli/inspect_retrieval.h"
#include "cli/interrupt.h"
#include "cli/kept_text.h"
#include "cli/layer_ranges.h"
#include "cli/length_marks.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/store_flags.h"
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
  /// The flags that only the sizes, only the kept text, or all but the sizes have a use for.
  std::vector<const CLI::Option*> of_sizes, of_text, of_prompt;

  bool sizes_wanted() const {
    return std::ranges::any_of(of_sizes, [](const auto* option) { return option->count() > 0; });
  }
};

/// A note about flags that were given and have no part in what is shown.
void note_unused(std::span<const CLI::Option* const> options, const char* why) {
  std::vector<std::string> names;
  for (const auto* option : options)
    if (option->count() > 0) names.push_back("--" + option->get_lnames().front());
  if (!names.empty())
    note(fmt::format("{} {} not used: {}", fmt::join(names, ", "), names.size() > 1 ? "are" : "is", why));
}

/// What layers with a sliding window hold, which no policy chooses of; "" where none has one.
std::string windows_text(const HParams& hp) {
  std::map<int, std::pair<int, int64_t>> layers;  // by window: how many, and bytes
  for (int layer = 0; layer < hp.n_layer; ++layer)
    if (const int window = hp.attention_of(layer).window; window > 0 && hp.has_rows(layer)) {
      auto& [count, bytes] = layers[window];
      ++count;
      bytes += window * kv_token_bytes(hp, KvTypes{}, layer);
    }
  std::vector<std::string> parts;
  parts.reserve(layers.size());
  for (const auto& [window, sum] : layers)
    parts.push_back(fmt::format("{} layers of the last {} tokens, at most {}", sum.first, window,
                                bytes_text(sum.second)));
  return parts.empty() ? "" : fmt::format("{}; kept whole", fmt::join(parts, "; "));
}

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
  for (int layer = 0; layer < hp.n_layer && !hp.layers_alike(); ++layer)
    if (const auto heads = hp.heads(layer); hp.slides(layer)) {
      line("heads in windows", fmt::format("{} query heads, {} KV heads, head size {}", heads.n_head,
                                           heads.n_head_kv, heads.d_head));
      break;
    }
  line("embedding", fmt::format("{}, feed-forward {}", hp.n_embd, hp.n_ff));
  if (const auto& m = hp.mixture; m.experts > 0)
    line("experts", fmt::format("{} of width {}, {} used by each token", m.experts, m.n_ff, m.used));
  line("vocabulary", fmt::format("{} tokens", hp.n_vocab));
  line("trained context", fmt::format("{} tokens", hp.n_ctx_train));
  line("fingerprint", hp.fingerprint);
  line("calibration",
       model.calibration().empty() ? "none: all layers keep the same number of tokens" : model.calibration());
  const auto full_layers = hp.n_full_layers();
  line("KV cache", fmt::format("{} per token over {} layers, F16",
                               bytes_text(hp.kv_layer_bytes_per_token() * full_layers), full_layers));
  if (const auto windows = windows_text(hp); !windows.empty()) line("sliding windows", windows);
  if (hp.recurrent())
    line("recurrent layers", fmt::format("{} layers, {} a sequence whatever its length, held twice",
                                         hp.n_recurrent_layers(), bytes_text(hp.state_bytes())));
  if (hp.shared_layers > 0)
    line("shared K and V", fmt::format("the last {} layers read those of layers below", hp.shared_layers));
  const auto type = store_type(hp, "auto");
  int64_t bytes = 0;
  for (int layer = 0; layer < hp.n_layer; ++layer)
    if (hp.has_rows(layer)) bytes += kv_token_bytes(hp, {type, type}, layer);
  line("prefix store",
       fmt::format("{} per token, {}{}", bytes_text(bytes), to_string(type),
                   hp.recurrent() ? fmt::format(", and up to {} snapshots of recurrent layers, {} each",
                                                PrefixStoreOptions().snapshots, bytes_text(hp.state_bytes()))
                                  : ""));
  print(text);
}

/// What the longest prompt takes of each device, where there are several.
void show_devices(const InspectFlags& flags, const Model& model, const Engine& engine, int64_t n, Task task) {
  if (model.devices().size() == 1) return;
  std::vector<std::vector<std::string>> rows = {
      {fmt::format("{} tokens", n), "budget", "kept", "one layer", "hidden states", "all", "free"}};
  for (const auto& budget : flags.budgets)
    for (const auto& [device, plan, available] :
         engine.plan_devices(n, *flags.policy.make_at(model.hparams(), task, budget)))
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
      const auto plan = engine.plan(n, *flags.policy.make_at(hp, task, budget));
      rows.push_back({marks.text(n), budget, bytes_text(plan.kv_full), bytes_text(plan.kv_kept),
                      fmt::format("{:.1f} %", 100.0 * static_cast<double>(plan.kv_kept) /
                                                  static_cast<double>(plan.kv_full)),
                      bytes_text(plan.kv_scratch), bytes_text(plan.peak_kv()), bytes_text(plan.hidden)});
    }
  print("\n" + table_text(rows) + marks.note());
  show_devices(flags, model, engine, lengths.back(), task);
}

/// The prompt as text, with what the caches keep of it.
void show_kept(const InspectFlags& flags, const PromptSource& source, const Model& model, Engine& engine) {
  const auto [prompt, text] = source.prompt(model);
  const auto task = flags.policy.task.choice()(kNeutralTask, text);
  auto once = flags.policy;
  once.recall = "off";  // of the prompt alone
  const auto policy = once.make(model.hparams(), task.task);
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
                     fmt::join(kept_by_layers(model.hparams(), sequence.kept), ", "), prompt.size());
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

/// The prompt to look at, if there is one. A pipe is none where it is not needed.
std::optional<PromptSource> prompt_of(const InspectFlags& flags) {
  const bool needed = flags.retrieval.wanted ? flags.retrieval.data.empty() : !flags.sizes_wanted();
  return flags.prompt.given() || needed ? flags.prompt.find() : std::nullopt;
}

void inspect(InspectFlags flags) {
  catch_interrupts();
  check_budgets(flags.budgets);
  sort_unique(flags.lengths);
  drop_repeated(flags.budgets);
  if (flags.retrieval.data.empty()) flags.policy.task.refuse_given();
  const auto prompt = prompt_of(flags);
  if (flags.retrieval.wanted) {
    note_unused(flags.of_sizes, "--retrieval shows no sizes");
    note_unused(flags.of_text, "--retrieval does not show the kept text");
  } else if (prompt) {
    note_unused(flags.of_sizes, "with a prompt, what is kept of it is shown, and no sizes");
  } else if (flags.detail || !flags.layers.empty()) {
    throw Error("--detail and --layers show what is kept of a prompt; give one with -p TEXT or -f FILE");
  } else {
    note_unused(flags.of_prompt, "sizes are of windowkv at each of --budgets");
  }
  const auto model = flags.model.load();
  Engine engine(*model, flags.model.engine());
  if (flags.retrieval.wanted) return inspect_retrieval(flags.retrieval, flags.policy, prompt, *model, engine);
  if (prompt) return show_kept(flags, *prompt, *model, engine);
  show_model(*model);
  show_sizes(flags, *model, engine);
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto flags = std::make_shared<InspectFlags>();
  auto* command =
      app.add_subcommand("inspect", "Show a model, its cache sizes, and what is kept of a prompt");
  command->footer(
      "Without a prompt: how much memory the cache takes at several prompt lengths and budgets. With one\n"
      "(-p, -f or a pipe): its text, shaded by the share of layers and KV heads that keep each token.\n"
      "Exit code 3, of --retrieval: some prompts could not be used, and are listed.\n"
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
      ->add_option(
          "--budgets", flags->budgets,
          "cache budgets: tokens (N), percent of the prompt (P%), percent with a floor (P%:N), or full")
      ->delimiter(',')
      ->capture_default_str();
  flags->of_sizes = {group->get_option("--lengths"), group->get_option("--budgets")};
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
  flags->of_text = {text->get_option("--detail"), text->get_option("--layers"),
                    text->get_option("--kept-only")};
  flags->policy.add_to(*command, /*fixed_policy=*/false, /*rows=*/true);
  flags->of_prompt = {command->get_option("--kv"), command->get_option("--kv-budget"),
                      text->get_option("--kept-only")};
  flags->retrieval.add_to(*command);
  command->callback([flags] { inspect(*flags); });
}

}  // namespace windowkv::cli
