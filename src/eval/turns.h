#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "eval/fidelity.h"
#include "windowkv/engine.h"
#include "windowkv/prefix_store.h"

/// Further questions about a document beside fresh prompts with the same tokens.
namespace windowkv::eval {

struct TurnsOptions {
  std::vector<KvType> stores;  ///< types of the stores that are compared
  int64_t max_tokens = 64;     ///< of the fresh prompts' answers, along which fidelity is measured
  std::function<bool()> cancelled;
  std::function<void(int64_t done, int64_t total)> progress;
};

/// A question that was answered from a store, and from a fresh prompt.
struct TurnResult {
  KvType store = KvType::kF16;
  size_t question = 0;  ///< its place, from 1 on: the first one fills the store
  int64_t prompt_tokens = 0;
  int64_t reused_tokens = 0;
  double stored_ms = 0;  ///< prefill from the store, up to the first token
  double fresh_ms = 0;   ///< of the same prompt without one
  Fidelity fidelity;     ///< of what follows, along the fresh prompt's answer
};

/// Prefills the prompts one after the other from one store of each type, and each but the first without one,
/// under the policy. Throws Cancelled where the options say so.
std::vector<TurnResult> run_turns(Engine& engine, const Model& model,
                                  std::span<const std::vector<Token>> prompts, const Policy& policy,
                                  const TurnsOptions& options);

}  // namespace windowkv::eval
