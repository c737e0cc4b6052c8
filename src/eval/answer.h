#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "windowkv/engine.h"
#include "windowkv/generate.h"
#include "windowkv/policy.h"

namespace windowkv::eval {

/// What one prompt gave under one policy.
struct Answer {
  std::string text;
  std::vector<Token> tokens;  ///< generated, an end-of-generation token included
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  KvBytes kv;
  double prefill_ms = 0;         ///< of the prefill, which other policies may share
  size_t prefill_shared_by = 1;  ///< policies that it served
  double decode_ms = 0;

  /// KV bytes kept of those of the whole prompt.
  double kept_share() const { return static_cast<double>(kv.kept) / static_cast<double>(kv.full); }
};

/// A prompt prefilled once for several policies.
struct SharedPrefill {
  std::vector<Sequence> sequences;  ///< by policy
  std::vector<float> logits;        ///< [n_vocab] after the prompt, the same for all
};

/// Makes room for the longest answer that `generation` allows, and throws Cancelled where its `cancelled`
/// says so. For policies that choose again, a prefix store of the types `store` is filled. `progress` may be
/// empty.
SharedPrefill prefill_shared(Engine& engine, const Model& model, std::span<const Token> prompt,
                             std::span<const std::unique_ptr<Policy>> policies,
                             const GenerateOptions& generation,
                             const std::function<void(int64_t done, int64_t total)>& progress = {},
                             KvTypes store = PrefixStoreOptions().types);

/// Generates behind the prompt under one of the policies, given by its place. Greedy unless `generation` says
/// otherwise. Throws Cancelled like prefill_shared.
Answer answer(Engine& engine, const Model& model, std::span<const Token> prompt, SharedPrefill& prefill,
              size_t policy, const GenerateOptions& generation);

/// LongBench's cut for prompts over the limit: the first and the last half of `limit` tokens are kept.
std::vector<Token> truncate_middle(std::vector<Token> tokens, int64_t limit);

}  // namespace windowkv::eval
