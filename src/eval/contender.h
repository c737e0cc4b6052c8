#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "eval/task_choice.h"
#include "windowkv/policy.h"

namespace windowkv::eval {

/// A policy under evaluation.
struct Contender {
  std::string name;    ///< as reports call it: "windowkv 12%"
  std::string kv;      ///< policy name, as --kv takes it
  std::string budget;  ///< as --kv-budget takes it
  /// The policy for a row; rows carry a task, and WindowKV scores by it. Policies without tasks ignore it.
  std::function<std::unique_ptr<Policy>(Task)> make;
  std::optional<std::string> task = std::nullopt;  ///< its own --task, over the evaluation's
};

/// From "snapkv", or a policy with numbers of its own, "windowkv:group=1:pyramid=flat". Keys: preset, task
/// (auto, given, localization, aggregation; without it the evaluation's), window, observe, group, lambda,
/// pyramid. Throws Error for anything unknown.
Contender make_contender(std::string_view spec, const std::string& budget, int n_layer);

/// The contender's policy for a row that says `given` of itself: under its own task, else under `task`'s
/// choice.
std::unique_ptr<Policy> policy_for(const Contender& contender, const TaskChoice& task, Task given,
                                   std::string_view prompt);

}  // namespace windowkv::eval
