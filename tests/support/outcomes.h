#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "random_model.h"
#include "windowkv/engine.h"
#include "windowkv/policy.h"

namespace windowkv::test {

/// What an engine kept of a prompt and said after it.
struct Outcome {
  std::vector<std::vector<TokenRange>> kept;  ///< by group
  std::vector<std::vector<std::vector<TokenRange>>> kept_by_head;
  std::vector<int64_t> lengths;
  std::vector<std::vector<float>> logits;
  std::vector<Token> tokens;
  KvBytes bytes;
};

Token top(std::span<const float> logits);

/// Prefills the prompt and decodes `steps` tokens greedily, or those of `forced`.
Outcome run(Engine& engine, std::span<const Token> prompt, const Policy& policy, int steps = 12,
            std::span<const Token> forced = {});

/// A sequence and the logits that its prompt ended with.
struct Answer {
  Sequence sequence;
  std::vector<float> logits;
};
Answer prefilled(Engine& engine, std::span<const Token> prompt, const Policy& policy,
                 PrefixStore* store = nullptr);

/// Expects that both keep the same tokens and say the same, to a relative error of `rounding`.
void expect_same(Engine& engine, Answer& got, Answer& fresh, double rounding);

std::vector<Token> joined(std::span<const Token> a, std::span<const Token> b);

/// What passes between devices while a new engine prefills the prompt in such chunks.
DeviceTraffic prefill_traffic(const Model& model, std::span<const Token> prompt, const Policy& policy,
                              int chunk);

/// Eight layers, whose query heads share KV heads in pairs.
RandomModel eight_layers();

struct NamedPolicy {
  std::string name;
  std::unique_ptr<Policy> policy;
};

SelectionConfig windows(int gamma, Decider decider, Pyramid pyramid = Pyramid::kCode);

/// Of every kind: no selection, each rule and each way of deciding.
std::vector<NamedPolicy> policies(int n_layer);

}  // namespace windowkv::test
