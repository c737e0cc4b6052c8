#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "windowkv/engine.h"
#include "windowkv/policy.h"

/// What a policy works from and what it decides, seen from outside: for checks against plain loops.
namespace windowkv::test {

/// Q of a prompt's last `rows` tokens and K of all of it, layer by layer, as lists.
struct Recorded {
  int64_t n = 0, rows = 0;
  int n_layer = 0, n_head = 0, n_head_kv = 0, d_head = 0;
  std::vector<std::vector<float>> q;  ///< by layer, [head][row][d]
  std::vector<std::vector<float>> k;  ///< by layer, [kv head][token][d]

  /// Softmax attention of a query head's row over the keys it may see, in double precision; 0 for the others.
  std::vector<double> attention(int layer, int head, int64_t row) const;
  /// The sum of a query head's rows, or the most that one gives, by token.
  std::vector<double> received(int layer, int head, Rows how) const;
  /// Where the rows are a repetition of the tokens `part` behind a prompt, all tokens but them: the most
  /// attention that each of those tokens received from the rows and the query heads of a KV head, in double
  /// precision (LayerView::replayed).
  std::vector<double> replayed(int layer, int kv_head, TokenRange part) const;
};

/// Prefills the prompt once to see what policies that observe `rows` tokens are given.
Recorded record(Engine& engine, const Model& model, std::span<const Token> prompt, int64_t rows);

/// Keeps given tokens, layer by layer, and asks nothing.
std::unique_ptr<Policy> fixed_policy(std::vector<KeptTokens> kept);

/// What a sequence keeps by its own account, layer by layer: one list, or one a KV head; none of layers that
/// no group has.
std::vector<KeptTokens> kept_by_layer(const Sequence& sequence);

/// Of the numbers [first, first + scores.size()), `chosen` are `count` with the highest scores; scores that
/// float32 may not tell apart count as equal. `chosen` may hold numbers outside the range.
void expect_highest(std::span<const int32_t> chosen, std::span<const double> scores, int64_t first,
                    int64_t count);

}  // namespace windowkv::test
