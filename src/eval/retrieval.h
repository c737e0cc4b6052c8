#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "eval/contender.h"
#include "windowkv/engine.h"

/// Which layers and heads know where the answer is, without labels: what of the prompt the full cache's own
/// answer attends to, and how much of that each rule would have kept.
namespace windowkv::eval {

/// One prompt and how its answer ends.
struct RetrievalPrompt {
  std::vector<Token> tokens;
  Task task = Task::kLocalization;
  int64_t max_tokens = 48;  ///< of the answer
  std::vector<std::string> stop = {};
};

/// The attention of an answer's tokens, by layer and query head.
struct AnswerAttention {
  int64_t tokens = 0;  ///< of the prompt
  std::vector<std::vector<float>> layers;

  /// [tokens]: what each token of the prompt received, the mean over the answer's tokens.
  std::span<const float> head(size_t layer, size_t number) const {
    const auto n = static_cast<size_t>(tokens);
    return std::span(layers[layer]).subspan(number * n, n);
  }
  size_t heads() const { return layers.front().size() / static_cast<size_t>(tokens); }
};

/// Prefills prompt and answer and records the softmax attention of the positions that the answer's tokens
/// came from: the prompt's last one and all of the answer's but its last. Throws Error for an empty answer.
AnswerAttention answer_attention(Engine& engine, std::span<const Token> prompt, std::span<const Token> answer,
                                 const PrefillOptions& options = {});

struct RetrievalOptions {
  // Tokens at the prompt's ends that are not counted, because rules keep them unasked: no fewer than the
  // rules' own (always_kept).
  int64_t sinks = 4;
  int64_t recent = 32;  ///< SnapKV's observation window, the longest of the published ones
  double best = 0.05;   ///< the part of the tokens that concentration looks at
  std::function<bool()> cancelled;
  std::function<void(int64_t done, int64_t total)> progress;
  /// A prompt that is left out, and why.
  std::function<void(size_t prompt, const std::string& why)> left_out;
};

/// Of one query head or of all of a layer's. All are shares, 0 to 1.
struct Retrieval {
  double mass = 0;           ///< of the answer's attention, what goes to the tokens that are counted
  double concentration = 0;  ///< of the mass, what is on the best tokens (RetrievalOptions::best)
  std::vector<double> kept;  ///< of the mass, what is on tokens that the rule kept; by rule
};

struct LayerRetrieval {
  Retrieval all;  ///< means over the heads; of `kept` the shares of their whole mass
  std::vector<Retrieval> heads;
};

struct RetrievalResult {
  std::vector<std::string> rules;      ///< the contenders' names
  std::vector<LayerRetrieval> layers;  ///< means over the prompts
  int64_t prompts = 0;
  int64_t prompt_tokens = 0;  ///< of all of them
  int64_t answer_tokens = 0;

  nlohmann::ordered_json json() const;
};

/// Answers every prompt greedily with the full cache and measures the rules along that answer. Prompts
/// without a token between the ends, or with an empty answer, are left out; throws Error where no other is
/// left. Where it is cancelled, the result is of the prompts before; throws Cancelled where there are none.
RetrievalResult measure_retrieval(Engine& engine, const Model& model,
                                  std::span<const RetrievalPrompt> prompts, std::span<const Contender> rules,
                                  const RetrievalOptions& options = {});

}  // namespace windowkv::eval
