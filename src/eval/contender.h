#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "windowkv/policy.h"

namespace windowkv::eval {

/// A policy under evaluation.
struct Contender {
  std::string name;    ///< as reports call it: "windowkv 12%"
  std::string kv;      ///< policy name, as --kv takes it
  std::string budget;  ///< as --kv-budget takes it
  /// The policy for a row; rows carry a task, and WindowKV scores by it. Policies without tasks ignore it.
  std::function<std::unique_ptr<Policy>(Task)> make;
};

/// From "snapkv", or a policy with numbers of its own, "windowkv:group=1:pyramid=flat". Keys: preset, task
/// (localization, aggregation; without it the row's), and the names of selection_settings(). Throws Error for
/// anything unknown.
Contender make_contender(std::string_view spec, const std::string& budget, int n_layer);

}  // namespace windowkv::eval
