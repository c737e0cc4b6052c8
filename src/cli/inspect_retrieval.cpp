#include "cli/inspect_retrieval.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/report.h"
#include "cli/resumable.h"
#include "cli/samples.h"
#include "eval/longbench.h"
#include "eval/retrieval.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

/// A rule of the table, and what the lines below the table say of it.
struct Rule {
  eval::Contender contender;
  std::string about;
};

eval::Contender spec_contender(const char* name, std::string_view spec, const PolicyFlags& flags,
                               const HParams& hp) {
  auto contender = eval::make_contender(spec, flags.budget, hp.n_full_layers());
  contender.name = name;
  return contender;
}

std::vector<Rule> rules_of(const PolicyFlags& flags, const HParams& hp) {
  auto leader = flags;
  leader.kv = "windowkv";
  const int gamma =
      flags.numbers.gamma.value_or(make_config("paper", Task::kLocalization, hp.n_full_layers()).gamma);
  leader.numbers.gamma = gamma;
  leader.numbers.decider = Decider::kFirst;
  const auto budget = flags.kv == "full" ? "" : " " + flags.budget;
  return {
      {contender_of("current", flags, hp), fmt::format("the current settings: {}{}", flags.kv, budget)},
      {contender_of("leader", leader, hp),
       fmt::format(
           "the current windowkv settings with groups of {} layers, whose first layer selects for all",
           gamma)},
      {spec_contender("snapkv", "snapkv", flags, hp), "SnapKV: every layer and KV head selects for itself"},
      {spec_contender("paper", "windowkv:preset=paper", flags, hp), "the published rule (--preset paper)"}};
}

struct Prompts {
  std::vector<eval::RetrievalPrompt> list;
  bool left_out = false;  ///< some rows are broken
};

Prompts read_prompts(const RetrievalFlags& flags, const PolicyFlags& policy,
                     const std::optional<PromptSource>& prompt, const Model& model) {
  const auto choice = policy.task.choice();
  if (flags.data.empty()) {
    if (!prompt)
      throw Error("no prompt; give one with -p TEXT, -f FILE or --tokens FILE, or several with --data");
    auto [tokens, text] = prompt->prompt(model);
    check_context(model.hparams(), static_cast<int64_t>(tokens.size()), flags.max_tokens);
    return {{{.tokens = std::move(tokens),
              .task = choice(kNeutralTask, text).task,
              .max_tokens = flags.max_tokens}}};
  }
  if (prompt) throw Error("--data gives the prompts; omit -p, -f and --tokens");
  const auto data = read_samples(flags.data, {flags.datasets, flags.limit});
  if (data.samples.empty()) throw Error("no usable sample in the files given with --data");
  Prompts prompts{.left_out = !data.broken.empty()};
  for (const auto& sample : data.samples)
    prompts.list.push_back({.tokens = eval::sample_tokens(model, sample),
                            .task = choice(sample.task, sample.prompt).task,
                            .max_tokens = std::min(flags.max_tokens, sample.max_new_tokens),
                            .stop = sample.stop});
  return prompts;
}

std::string percent(double share) {
  return fmt::format("{:.1f} %", 100 * share);
}

std::vector<std::string> figures(const eval::Retrieval& r) {
  std::vector<std::string> cells = {percent(r.mass), percent(r.concentration)};
  for (const double part : r.kept) cells.push_back(percent(part));
  return cells;
}

std::string result_table(const eval::RetrievalResult& result, bool heads) {
  std::vector<std::vector<std::string>> rows = {{"layer", "mass", "best 5 %"}};
  if (heads) rows[0].insert(rows[0].begin() + 1, "head");
  rows[0].insert(rows[0].end(), result.rules.begin(), result.rules.end());
  auto add = [&](size_t layer, const char* head, const eval::Retrieval& r) {
    rows.push_back({fmt::format("{}", layer)});
    if (heads) rows.back().emplace_back(head);
    const auto cells = figures(r);
    rows.back().insert(rows.back().end(), cells.begin(), cells.end());
  };
  for (size_t l = 0; l < result.layers.size(); ++l) {
    add(l, "all", result.layers[l].all);
    for (size_t h = 0; heads && h < result.layers[l].heads.size(); ++h)
      add(l, fmt::format("{}", h).c_str(), result.layers[l].heads[h]);
  }
  return table_text(rows);
}

/// The table in two sentences: where the first rule loses most of what the answer looks at, and which heads
/// read most from few tokens.
std::string verdict(const eval::RetrievalResult& result) {
  std::vector<size_t> weak;
  std::vector<std::pair<double, std::string>> readers;
  for (size_t l = 0; l < result.layers.size(); ++l) {
    const auto& layer = result.layers[l];
    if (layer.all.kept.front() < 0.5) weak.push_back(l);
    for (size_t h = 0; h < layer.heads.size(); ++h)
      readers.emplace_back(-layer.heads[h].mass * layer.heads[h].concentration, fmt::format("{}.{}", l, h));
  }
  const size_t shown = std::min<size_t>(readers.size(), 5);
  std::partial_sort(readers.begin(), readers.begin() + static_cast<std::ptrdiff_t>(shown), readers.end());
  std::vector<std::string> names;
  for (size_t i = 0; i < shown; ++i)
    names.push_back(fmt::format("{} ({})", readers[i].second, percent(-readers[i].first)));
  return fmt::format(
      "{}\nHeads that read the most from few tokens (layer.head, mass x best 5 %): {}.\n",
      weak.empty()
          ? std::string("The current settings keep at least half of the mass in every layer.")
          : fmt::format("The current settings keep less than half of the mass in {} of {} layers: {}.",
                        weak.size(), result.layers.size(), fmt::join(weak, ", ")),
      fmt::join(names, ", "));
}

std::string legend(std::span<const Rule> rules) {
  std::string text =
      "\nmass      share of the answer's attention that goes to the prompt, excluding its two ends\n"
      "best 5 %  share of that mass on the 5 % of tokens with the most\n"
      "The other columns: share of that mass on the tokens that a selection rule keeps.\n";
  for (const auto& rule : rules) text += fmt::format("{:<10}{}\n", rule.contender.name, rule.about);
  return text + "\n";
}

nlohmann::ordered_json result_json(const PolicyFlags& policy, const Model& model, std::span<const Rule> rules,
                                   const eval::RetrievalResult& result) {
  nlohmann::ordered_json json = {{"model", std::filesystem::path(model.path()).filename().string()},
                                 {"type", model.weight_type()},
                                 {"kv", policy.kv},
                                 {"kv_budget", policy.budget},
                                 {"preset", policy.preset}};
  for (const auto& rule : rules) json["rules"][rule.contender.name] = rule.about;
  json.update(result.json());
  return json;
}

}  // namespace

void RetrievalFlags::add_to(CLI::App& app) {
  auto* group = app.add_option_group(
      "Retrieval",
      "Which layers and heads attend to the source of the answer, and how much of it each rule keeps");
  auto* retrieval = group->add_flag(
      "--retrieval", wanted,
      "answer with the full cache, and measure which tokens of the prompt the answer attends to");
  group->add_option("--data", data, "prompts: files of JSON lines as for longbench, or folders of them")
      ->type_name("PATH")
      ->needs(retrieval);
  group->add_option("--datasets", datasets, "use only these datasets")
      ->delimiter(',')
      ->type_name("NAME,...")
      ->needs(retrieval);
  add_limit(*group, limit, "use only the first N samples of each dataset")->needs(retrieval);
  group->add_option("-n,--predict", max_tokens, "maximum tokens of the answer")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str()
      ->needs(retrieval);
  group->add_flag("--heads-detail", heads_detail, "show a line for each head")->needs(retrieval);
  group->add_option("--json", json, "write the results as JSON, including each head's")
      ->type_name("FILE")
      ->needs(retrieval);
}

void inspect_retrieval(const RetrievalFlags& flags, const PolicyFlags& policy,
                       const std::optional<PromptSource>& prompt, const Model& model, Engine& engine) {
  const auto file = open_output(flags.json);
  const auto rules = rules_of(policy, model.hparams());
  std::vector<eval::Contender> contenders;
  contenders.reserve(rules.size());
  for (const auto& rule : rules) contenders.push_back(rule.contender);
  const auto [prompts, broken] = read_prompts(flags, policy, prompt, model);

  Progress progress("retrieval");
  eval::RetrievalOptions options;
  options.cancelled = interrupted;
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  size_t left_out = 0;
  const size_t total = prompts.size();
  options.left_out = [&, total](size_t number, const std::string& why) {
    ++left_out;
    progress.clear();
    warn(fmt::format("prompt {} of {} is skipped: {}", number + 1, total, why));
  };
  const auto result = run_resumable(progress, "", [&, &measured = prompts] {
    return eval::measure_retrieval(engine, model, measured, contenders, options);
  });
  print(fmt::format("{} prompt{}; on average {} prompt tokens and {} answer tokens\n\n", result.prompts,
                    result.prompts == 1 ? "" : "s", result.prompt_tokens / result.prompts,
                    result.answer_tokens / result.prompts) +
        result_table(result, flags.heads_detail) + legend(rules) + verdict(result));
  end_if_interrupted(static_cast<size_t>(result.prompts), total - left_out, "prompts", {flags.json});
  if (file) file->commit(json_text(result_json(policy, model, rules, result), 2));
  if (broken || left_out > 0) throw ExitWith{kLeftOutExit};
}

}  // namespace windowkv::cli
