#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "model/reasoning.h"
#include "server/answer.h"
#include "windowkv/policy.h"

namespace windowkv::server {

/// One prompt to continue.
struct Job {
  std::string id;     ///< of the request, for logs
  std::string owner;  ///< whose stored prefixes it may use
  std::vector<Token> prompt;
  std::shared_ptr<const Policy> policy;
  Task task = Task::kLocalization;
  GenerateOptions generate;      ///< without callbacks; max_tokens is at most what the context leaves
  int choices = 1;               ///< answers, which differ by the seed
  int top_logprobs = -1;         ///< most probable tokens told beside each; -1: no logprobs at all
  bool prompt_logprobs = false;  ///< tell those of the prompt's tokens first, as a delta of choice 0
  bool show_kept = false;        ///< tell what is kept of the prompt (Usage::kept_text)
  int64_t kv_bytes = 0;          ///< of K and V that it takes, once submitted
  const ReasoningFormat* reasoning = {};  ///< of its answers; null: not told apart
  bool ends_in_reasoning = false;         ///< the prompt
  std::shared_ptr<Answer> answer = std::make_shared<Answer>();
  std::chrono::steady_clock::time_point arrived = std::chrono::steady_clock::now();
};

}  // namespace windowkv::server
