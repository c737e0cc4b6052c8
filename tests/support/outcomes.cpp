#include "support/outcomes.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "support/models.h"
#include "support/reference.h"

namespace windowkv::test {

SelectionConfig windows(int gamma, Decider decider, Pyramid pyramid) {
  SelectionConfig c;
  c.gamma = gamma;
  c.decider = decider;
  c.pyramid = pyramid;
  return c;
}

Token top(std::span<const float> logits) {
  return static_cast<Token>(std::ranges::max_element(logits) - logits.begin());
}

Outcome run(Engine& engine, std::span<const Token> prompt, const Policy& policy, int steps,
            std::span<const Token> forced) {
  Outcome out;
  Sequence sequence;
  auto logits = engine.prefill(sequence, prompt, policy);
  for (const auto& group : sequence.groups) {
    out.kept.push_back(group.kept);
    out.kept_by_head.push_back(group.kept_by_head);
  }
  out.lengths = sequence.kept;
  out.bytes = sequence.bytes;
  for (int i = 0; i < steps; ++i) {
    out.logits.emplace_back(logits.begin(), logits.end());
    out.tokens.push_back(forced.empty() ? top(logits) : forced[static_cast<size_t>(i)]);
    logits = engine.decode(sequence, out.tokens.back());
  }
  return out;
}

std::vector<Token> joined(std::span<const Token> a, std::span<const Token> b) {
  std::vector<Token> all(a.begin(), a.end());
  all.insert(all.end(), b.begin(), b.end());
  return all;
}

Answer prefilled(Engine& engine, std::span<const Token> prompt, const Policy& policy, PrefixStore* store) {
  Answer out;
  PrefillOptions options;
  options.store = store;
  const auto logits = engine.prefill(out.sequence, prompt, policy, options);
  out.logits.assign(logits.begin(), logits.end());
  return out;
}

void expect_same(Engine& engine, Answer& got, Answer& fresh, double rounding) {
  EXPECT_LT(relative_error(got.logits, fresh.logits), rounding);
  EXPECT_EQ(got.sequence.kept, fresh.sequence.kept);
  ASSERT_EQ(got.sequence.groups.size(), fresh.sequence.groups.size());
  for (size_t g = 0; g < fresh.sequence.groups.size(); ++g) {
    EXPECT_EQ(got.sequence.groups[g].kept, fresh.sequence.groups[g].kept) << "group " << g;
    EXPECT_EQ(got.sequence.groups[g].kept_by_head, fresh.sequence.groups[g].kept_by_head) << "group " << g;
  }
  // What was kept: attention reads it.
  for (const Token token : random_tokens(4, 64, 9)) {
    const auto one = engine.decode(got.sequence, token);
    const std::vector<float> ours(one.begin(), one.end());
    EXPECT_LT(relative_error(ours, engine.decode(fresh.sequence, token)), rounding);
  }
}

DeviceTraffic prefill_traffic(const Model& model, std::span<const Token> prompt, const Policy& policy,
                              int chunk) {
  Engine engine(model, {.chunk = chunk});
  Sequence sequence;
  engine.prefill(sequence, prompt, policy);
  return engine.prefill_traffic();
}

RandomModel eight_layers() {
  RandomModel m;
  m.n_layer = 8;
  m.d_head = 32;
  m.n_embd = 128;
  m.llama3_rope_freqs = true;
  return m;
}

std::vector<NamedPolicy> policies(int n_layer) {
  std::vector<NamedPolicy> out;
  const PolicyOptions defaults{Budget::percent(12), make_config("default", Task::kLocalization, n_layer, {})};
  out.push_back({"full", full_policy()});
  out.push_back({"windowkv", make_policy("windowkv", defaults)});
  out.push_back(
      {"aggregation", make_policy("windowkv", {Budget::percent(12),
                                               make_config("default", Task::kAggregation, n_layer, {})})});
  out.push_back({"paper", make_policy("windowkv", {Budget::percent(12),
                                                   make_config("paper", Task::kLocalization, n_layer, {})})});
  // Groups of three layers: one of them lies on both sides of every split of eight.
  out.push_back({"last of three", windowkv_policy(Budget::percent(20), windows(3, Decider::kLast))});
  out.push_back({"all of three", windowkv_policy(Budget::percent(20), windows(3, Decider::kAll))});
  for (const char* name : {"snapkv", "h2o", "pyramidkv", "tova", "streaming-llm"})
    out.push_back({name, make_policy(name, {Budget::percent(12), defaults.config})});
  return out;
}

}  // namespace windowkv::test
