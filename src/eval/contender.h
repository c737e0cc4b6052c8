#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/task_choice.h"
#include "windowkv/policy.h"

namespace windowkv::eval {

/// A policy under evaluation.
struct Contender {
  std::string name;    ///< as reports call it: "windowkv 12%"
  std::string kv;      ///< policy name, as --kv takes it
  std::string budget;  ///< as --kv-budget takes it; "100%" for full
  /// The policy for a row; rows carry a task, and WindowKV scores by it. Policies without tasks ignore it.
  std::function<std::unique_ptr<Policy>(Task)> make;
  std::optional<std::string> task = std::nullopt;  ///< its own --task, over the evaluation's
};

/// Tokens between two choices, as PolicyOptions::recall: "4", or "off" for 0. Throws Error for anything else.
int parse_recall(std::string_view text);
/// Tokens, as PolicyOptions::total: "2048", "2k", or "off" for 0. Throws Error for anything else.
int64_t parse_total(std::string_view text);

/// The policy in a contender's name, without its budget.
std::string policy_in(const std::string& name);

/// From "snapkv", or a policy with numbers of its own, "windowkv:group=1:pyramid=flat". Keys: preset, task
/// (auto, given, localization, aggregation; without it the evaluation's), and the names of
/// selection_settings(); of every policy, recall (Policy::recall). Throws Error for anything unknown.
Contender make_contender(std::string_view spec, const std::string& budget, int n_layer);

/// The task that the contender runs a row under that says `given` of itself: its own, else `task`'s choice.
TaskDecision task_for(const Contender& contender, const TaskChoice& task, Task given,
                      std::string_view prompt);

/// Every policy with every budget, in the order given, none twice; full has no budget, and the budget "full"
/// stands for it.
std::vector<Contender> make_contenders(std::span<const std::string> specs,
                                       std::span<const std::string> budgets, int n_layer);

}  // namespace windowkv::eval
