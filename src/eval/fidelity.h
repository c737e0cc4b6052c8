#pragma once

#include <vector>

#include "windowkv/engine.h"
#include "windowkv/vocab.h"

namespace windowkv::eval {

/// What a model says of the next token.
struct NextToken {
  std::vector<float> p;  ///< probabilities [n_vocab]
  double log_p = 0;      ///< mean of log p under p: the entropy's negative, nats
  Token most_probable = 0;
};

/// The full cache's greedy answer to a prompt, and what it says along it.
struct ReferenceAnswer {
  std::vector<Token> tokens;
  /// What led to tokens[i], for i ≥ 1. The first token comes from prefill, which every policy computes from
  /// the full attention, so it says nothing about the cache.
  std::vector<NextToken> steps;
};

/// Fidelity of a compressed cache without labels: along the full cache's answer, teacher-forced.
struct Fidelity {
  int64_t steps = 0;          ///< distributions compared: the answer's tokens less the first
  double mean_kl = 0;         ///< mean of KL(full ‖ compressed), nats
  double top1_agreement = 0;  ///< share of steps whose most probable token is the same

  /// Whether greedy decoding gives the full cache's answer.
  bool same_answer() const { return steps == 0 || top1_agreement == 1.0; }
};

/// log p of the token under softmax of the logits, nats.
double log_probability(std::span<const float> logits, Token token);

/// What a sequence prefilled under the full policy says along its answer, which is known; one pass. The
/// sequence is rewound to the prompt afterwards.
ReferenceAnswer reference_along(Engine& engine, Sequence& sequence, std::vector<Token> answer);

/// The same along its greedy answer of at most `max_tokens` tokens, an end-of-generation token included;
/// `logits` are prefill's.
ReferenceAnswer reference_answer(Engine& engine, const Vocab* vocab, Sequence& sequence,
                                 std::span<const float> logits, int64_t max_tokens);

/// Feeds a prefilled sequence with the reference answer's tokens, in one pass, then rewinds it to the prompt.
/// Steps are 0 where the answer has one token.
Fidelity measure_fidelity(Engine& engine, Sequence& sequence, const ReferenceAnswer& reference);

}  // namespace windowkv::eval
