#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "windowkv/policy.h"

namespace windowkv::eval {

/// A policy under evaluation.
struct Contender {
  std::string name;    ///< as reports call it: "windowkv 12%"
  std::string kv;      ///< policy name, as --kv takes it
  std::string budget;  ///< as --kv-budget takes it; "100%" for full
  /// The policy for a row; rows carry a task, and WindowKV scores by it. Policies without tasks ignore it.
  std::function<std::unique_ptr<Policy>(Task)> make;
};

/// The policy in a contender's name, without its budget.
std::string policy_in(const std::string& name);

/// From "snapkv", or a policy with numbers of its own, "windowkv:group=1:pyramid=flat". Keys: preset, task
/// (localization, aggregation; without it the row's), window, observe, group, lambda, pyramid. Throws Error
/// for anything unknown.
Contender make_contender(std::string_view spec, const std::string& budget, int n_layer);

/// Every policy with every budget, in the order given, none twice; full has no budget.
std::vector<Contender> make_contenders(std::span<const std::string> specs,
                                       std::span<const std::string> budgets, int n_layer);

}  // namespace windowkv::eval
