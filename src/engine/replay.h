#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "backend/graph.h"
#include "cache/kv_cache.h"
#include "windowkv/policy.h"
#include "windowkv/vocab.h"

/// Parts of a prompt that the model repeats behind it (Selector::replay).
namespace windowkv {

/// One part and how the model is asked to repeat it.
struct ReplayPart {
  std::vector<Token> instruction;
  int64_t quoted = 0;  ///< prompt tokens before the part that follow the instruction
  TokenRange part;

  /// Tokens that pass through the model.
  int64_t length() const {
    return static_cast<int64_t>(instruction.size()) + quoted + part.second - part.first;
  }
  std::vector<Token> tokens(std::span<const Token> prompt) const;
};

/// The parts of a prompt of n tokens, in order. `vocab`: null where there is none, and no instruction.
std::vector<ReplayPart> replay_parts(const Vocab* vocab, const Replay& replay, int64_t n);

/// The longest of the parts, in tokens that pass through the model; 0 without any.
int64_t longest_replay(std::span<const ReplayPart> parts);

/// What policies that share a prompt want repeated of it: adds what one of them wants. Throws Error where
/// they want it in different ways.
void add_replay(Replay& all, const Replay& wanted);

/// By prompt.
using Replays = std::vector<std::vector<ReplayPart>>;
int64_t longest_replay(const Replays& replays);
/// Rows of a prompt and the longest repetition of it, the most of any of these lengths; 0 where none is
/// repeated.
int64_t replay_rows(const Replays& replays, std::span<const int64_t> lengths);
/// That pass through the model in all.
int64_t tokens_of(const Replays& replays);
Replays make_replays(const Vocab* vocab, std::span<const Replay> replays, std::span<const int64_t> lengths);

/// The most attention that a prompt's tokens received from the repetition of a part (LayerView::replayed).
struct ReplayMaxima {
  ggml_tensor* most;  ///< [prompt tokens, n_head_kv] F32, raised
  TokenRange part;    ///< prompt tokens that are repeated

  int64_t prompt_tokens() const { return most->ne[0]; }
  int64_t sinks() const { return std::min(kReplaySinks, part.first); }
  int64_t count() const { return part.second - part.first; }
  /// Of the part's tokens in a KV head: [count()].
  ggml_tensor* of_head(ggml_context* ctx, int64_t head) const;
};

/// Raises the maxima to the attention of queries q [d_head, n_head, t], those of rows [first, first + t),
/// where the rows behind the prompt's are the repetition's.
void raise_maxima(Graph& graph, const HParams& hp, ggml_tensor* q, const KvRows& rows, int64_t first,
                  const ReplayMaxima& maxima);

/// Bytes that this takes for chunks of t tokens; an estimate.
int64_t raise_bytes(const HParams& hp, const Replays& replays, int64_t t);

/// No fewer nodes than it adds.
inline size_t raise_nodes(const HParams& hp) {
  return 64 + 448 * static_cast<size_t>(hp.n_head_kv);
}

}  // namespace windowkv
