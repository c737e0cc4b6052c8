#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/hub_flags.h"
#include "cli/prompt_flags.h"
#include "eval/contender.h"
#include "eval/task_choice.h"
#include "windowkv/engine.h"

namespace windowkv::cli {

/// -m or --hf-repo, -t and what else decides how a model is loaded.
struct ModelFlags {
  std::string path;
  HubFlags hub;
  int threads = 0;
  std::string device = "auto";
  std::vector<std::string> rpc;
  std::vector<double> tensor_split;
  int cpu_experts = 0;  ///< ModelOptions::cpu_experts
  bool no_blas = false;
  bool no_mmap = false;
  bool no_repack = false;
  bool mlock = false;
  bool no_warmup = false;
  std::string calibration = "auto";
  int chunk = EngineOptions().chunk;
  std::string kv_type = "f16";
  std::string kv_type_k;  ///< empty: as kv_type
  std::string kv_type_v;

  void add_to(CLI::App& app);
  std::unique_ptr<Model> load(bool weights = true) const;
  /// The model's file: -m's, or that of --hf-repo, looked for (HubFlags::find) at the first call.
  const std::string& file() const;
  /// Throws Error for unknown types.
  EngineOptions engine() const;

 private:
  mutable std::string found_;  // what file() found on the hub
};

/// --task-threshold, --classifier and --classifier-labels: what tells tasks apart.
struct ClassifierFlags {
  double threshold = kDefaultTaskThreshold;
  std::string path;
  std::vector<std::string> labels;

  void add_to(CLI::App& group);
  /// The classifier of --classifier, null for the built-in one. Throws Error for one that cannot be used.
  std::shared_ptr<const TaskClassifier> load() const;
};

/// --task, and the classifier's flags: how a prompt's task is found.
struct TaskFlags {
  std::string task = "auto";
  ClassifierFlags classifier;

  /// `has_rows`: for commands whose rows carry a task, which --task given takes.
  void add_to(CLI::App& app, bool has_rows = false);
  /// Loads the classifier. Throws Error for values that make no choice.
  eval::TaskChoice choice() const;
  /// Throws Error for --task given, where there are no rows.
  void refuse_given() const;
  /// For results files: all that a decision depends on.
  std::string text() const;

 private:
  bool rows_ = false;
};

/// Tokens between two choices where --recall is auto; docs/prefix-store.md says how it was found.
inline constexpr int kDefaultRecall = 2;

/// --kv, --kv-budget, the task's flags, --preset and the method's numbers.
struct PolicyFlags {
  std::string kv = "windowkv";
  std::string budget{kDefaultBudget};
  std::string preset = "default";
  SelectionOverrides numbers;
  std::string recall = "off";
  std::string total = "off";
  const CLI::Option* budget_option = nullptr;  ///< null with a fixed policy
  std::vector<const CLI::Option*> settings;    ///< of windowkv alone: --preset and the method's numbers

  TaskFlags task;

  /// `fixed_policy`: leave out --kv and --kv-budget, for commands that compare several. `rows`: see
  /// TaskFlags.
  void add_to(CLI::App& app, bool fixed_policy = false, bool rows = false);
  bool budget_given() const { return budget_option != nullptr && budget_option->count() > 0; }
  /// The first of `settings` that was given; null if none was.
  const CLI::Option* setting_given() const;
  /// For answers that people read: with "auto" decided. Off where another device than the CPU computes, to
  /// which all keys would be copied for each choice, and beside a total, which drops keys.
  PolicyFlags for_model(const Model& model) const;
  /// Decoded tokens after which the policy chooses again; 0: never. Throws Error for what is no number.
  int recall_every() const;
  /// Throws Error for values that make no policy.
  std::unique_ptr<Policy> make(const HParams& hp, Task kind) const;
  std::unique_ptr<Policy> make(const HParams& hp, Task kind, const std::string& kv_name,
                               const std::string& budget_text) const;
  /// windowkv's at one of several budgets, where "full" is the full cache.
  std::unique_ptr<Policy> make_at(const HParams& hp, Task kind, const std::string& budget_text) const;
};

/// The policy that the flags name as a contender called `name`. Throws Error for values that make no policy,
/// before any work.
eval::Contender contender_of(std::string name, const PolicyFlags& flags, const HParams& hp);

/// --policies and --budgets, of commands that set several side by side.
struct ContenderFlags {
  std::vector<std::string> policies = {"full", "windowkv"};
  std::vector<std::string> budgets = {"12%"};

  /// `note`: what the help of --policies adds.
  void add_to(CLI::App& app, const std::string& note = "");
};

/// Refuses nan and inf, which CLI11 takes for numbers within any range.
CLI::Validator finite_number();

/// --limit: the first N of something, `help`; -1 is all.
CLI::Option* add_limit(CLI::App& app, int64_t& limit, const std::string& help);

/// --max-length of evaluations that cut the middle out of prompts.
void add_max_length(CLI::App& app, int64_t& length);

/// The validator with advice in place of its own words, which list all units in any order.
CLI::Validator with_message(const CLI::Validator& validator, const std::string& advice);

/// A list of prompt lengths with k for 1,024.
void add_lengths(CLI::App& app, const std::string& name, std::vector<int64_t>& lengths,
                 const std::string& help);
/// In order, none twice.
void sort_unique(std::vector<int64_t>& lengths);

/// Without what is there already.
template <typename T>
void drop_repeated(std::vector<T>& values) {
  auto end = values.begin();
  for (auto& value : values)
    if (std::find(values.begin(), end, value) == end) *end++ = value;
  values.erase(end, values.end());
}

/// Throws Error for a budget that is none, which "full" is one of.
void check_budgets(std::span<const std::string> budgets);

/// Warns if a prompt of n tokens, or the prompt and the longest answer together, exceed the trained context.
void check_context(const HParams& hp, int64_t n, int64_t answer = 0);

}  // namespace windowkv::cli
