// The one list of policies.
#include "policy/policies.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "windowkv/error.h"

namespace windowkv {

namespace {

struct Entry {
  std::string_view name;
  std::unique_ptr<Policy> (*make)(const PolicyOptions&);
};

constexpr Entry kPolicies[] = {
    {"windowkv", make_windowkv},
    {"full", make_full},
    {"snapkv", make_snapkv},
    {"pyramidkv", make_pyramidkv},
    {"chunkkv", make_chunkkv},
    {"h2o", make_h2o},
    {"tova", make_tova},
    {"streaming-llm", make_streaming_llm},
    {"random", make_random},
    {"adakv", make_adakv},
    {"criticalkv", make_criticalkv},
    {"defensivekv", make_defensivekv},
    {"layer-defensivekv", make_layer_defensivekv},
    {"expected-attention", make_expected_attention},
    {"kvzip", make_kvzip},
    {"laq", make_laq},
};

}  // namespace

std::vector<std::string> policy_names() {
  std::vector<std::string> names;
  for (const auto& entry : kPolicies) names.emplace_back(entry.name);
  return names;
}

bool policy_chooses_again(std::string_view name) {
  // Whatever the prompt, as long as something is dropped.
  return make_policy(name, {})
      ->start({.n = 1 << 20, .n_layer = 1, .n_head = 1, .n_head_kv = 1, .d_head = 64})
      ->chooses_again();
}

std::unique_ptr<Policy> make_policy(std::string_view name, const PolicyOptions& options) {
  if (options.recall < 0) throw Error("the number of tokens between two choices is negative");
  for (const auto& entry : kPolicies) {
    if (entry.name != name) continue;
    auto policy = entry.make(options);
    if (options.recall == 0) return policy;
    if (!policy_chooses_again(name))
      throw Error(fmt::format(
          "{} needs more than keys and the newest queries and cannot choose again; leave recall off", name));
    return make_recalling(std::move(policy), options.recall);
  }
  throw Error(fmt::format("unknown policy \"{}\"; use one of: {}", name, fmt::join(policy_names(), ", ")));
}

}  // namespace windowkv
