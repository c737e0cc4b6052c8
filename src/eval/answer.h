#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "eval/contender.h"
#include "windowkv/engine.h"
#include "windowkv/generate.h"

namespace windowkv::eval {

/// What one prompt gave under one policy.
struct Answer {
  std::string text;
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  KvBytes kv;
  double prefill_ms = 0;         ///< of the prefill, which other policies may share
  size_t prefill_shared_by = 1;  ///< policies that it served
  double decode_ms = 0;
};

/// Prefills the prompt under the policy and generates. Greedy unless `options` say otherwise. Throws
/// Cancelled where options.cancelled does.
Answer answer(Engine& engine, const Model& model, std::span<const Token> prompt, const Policy& policy,
              const GenerateOptions& options);

/// The same under several policies, with one prefill: hands over each policy's answer as soon as it is there,
/// with its place in `policies`. `prefilling` may be empty.
void answer_each(Engine& engine, const Model& model, std::span<const Token> prompt,
                 std::span<const Policy* const> policies, const GenerateOptions& options,
                 const std::function<void(int64_t done, int64_t total)>& prefilling,
                 const std::function<void(size_t policy, Answer answer)>& answered);

/// LongBench's cut for prompts over the limit: the first and the last half of `limit` tokens are kept.
std::vector<Token> truncate_middle(std::vector<Token> tokens, int64_t limit);

}  // namespace windowkv::eval
