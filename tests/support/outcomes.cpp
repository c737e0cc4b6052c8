#include "support/outcomes.h"

#include <algorithm>

#include "support/models.h"

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
