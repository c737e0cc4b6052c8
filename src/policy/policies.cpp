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
    {"r-kv", make_rkv},
    {"triattention", make_triattention},
};

}  // namespace

std::vector<std::string> policy_names() {
  std::vector<std::string> names;
  for (const auto& entry : kPolicies) names.emplace_back(entry.name);
  return names;
}

namespace {

/// Tokens that come before a layer which has just dropped some holds the total again.
int64_t room_in(int64_t total) {
  // R-KV's (arXiv 2505.24133) 128, where that is not much of the total.
  return std::min<int64_t>(128, total / 4);
}

/// That all layers and KV heads keep as many tokens by it, and fewer than the total: of a layer that holds
/// that, whatever the model.
void check_even(const Policy& policy, int64_t total) {
  constexpr int kLayers = 64;  // that groups differ, where they do
  const auto selector =
      policy.start({.n = total, .n_layer = kLayers, .n_head = 4, .n_head_kv = 2, .d_head = 64});
  const auto name = policy.name();
  if (selector->heads_differ())
    throw Error(fmt::format(
        "{} keeps different numbers of tokens by KV head and cannot keep to a total; use another policy",
        name));
  for (int layer = 1; layer < kLayers; ++layer)
    if (selector->capacity(layer) != selector->capacity(0))
      throw Error(fmt::format("{} gives layers different budgets and cannot keep to a total; use {}", name,
                              policy.config() != nullptr ? "--pyramid flat" : "another policy"));
  if (selector->capacity(0) >= total)
    throw Error(fmt::format("{} drops nothing and cannot keep to a total; use another policy", name));
}

std::unique_ptr<Policy> make_with_total(const Entry& entry, const PolicyOptions& options) {
  const int64_t total = options.total;
  if (options.recall > 0)
    throw Error("choosing again needs all tokens, and a total drops some for good: set one of them");
  if (total < kLeastTotal)
    throw Error(fmt::format("a total of {} tokens; it must be {} at least", total, kLeastTotal));
  const int64_t kept = total - room_in(total);
  auto first = options;
  first.budget = options.budget.at_most(kept);
  auto again = options;
  again.budget = Budget::tokens(kept);
  auto chooses_again = entry.make(again);
  check_even(*chooses_again, total);
  return make_bounded(entry.make(first), std::move(chooses_again), total);
}

/// To ask what depends on the policy alone: of a prompt that is long enough for something to be dropped.
std::unique_ptr<Selector> any_selector(std::string_view name) {
  return make_policy(name, {})->start(
      {.n = 1 << 20, .n_layer = 1, .n_head = 1, .n_head_kv = 1, .d_head = 64});
}

}  // namespace

void check_recalls(const Selector& selector, std::string_view name) {
  if (const auto reason = selector.against_recall(); !reason.empty())
    throw Error(fmt::format("{} cannot choose again while answering: it {}; leave recall off", name, reason));
}

bool policy_chooses_again(std::string_view name) {
  return any_selector(name)->chooses_again();
}

bool policy_recalls(std::string_view name) {
  return any_selector(name)->against_recall().empty();
}

std::unique_ptr<Policy> make_policy(std::string_view name, const PolicyOptions& options) {
  if (options.recall < 0) throw Error("the number of tokens between two choices is negative");
  for (const auto& entry : kPolicies) {
    if (entry.name != name) continue;
    if (options.recall == 0 && options.total == 0) return entry.make(options);
    if (options.total != 0) {
      if (!policy_chooses_again(name))
        throw Error(fmt::format(
            "{} needs more than keys and the newest queries and cannot choose again; leave the total off",
            name));
      return make_with_total(entry, options);
    }
    check_recalls(*any_selector(name), name);
    return make_recalling(entry.make(options), options.recall);
  }
  throw Error(fmt::format("unknown policy \"{}\"; use one of: {}", name, fmt::join(policy_names(), ", ")));
}

}  // namespace windowkv
