#pragma once

#include <cstdint>
#include <span>

#include "backend/logit_scale.h"
#include "backend/row_kernels.h"

namespace windowkv {

/// Queries of tokens, each of which sees the rows up to its own.
struct CausalQueries {
  const float* q = nullptr;  ///< d_head elements of each head of each token
  size_t token_stride = 0;   ///< elements from a token's to the next one's
  size_t head_stride = 0;
  int64_t tokens = 0;
  int64_t first = 0;   ///< row of the first token's own key
  int64_t stride = 1;  ///< rows from a token's to the next one's
  int n_head = 0;
  int n_head_kv = 0;
  int d_head = 0;
  LogitScale logits;
  bool rounded = false;  ///< whether products may round to 16 bits, where the processor has such
};

/// What they see of the rows before their own, and what else takes a share of their attention.
struct CausalRange {
  std::span<const int64_t> begins;  ///< first row of each KV head, none: 0
  int64_t window = 0;               ///< rows up to the own one, 0: all
  const float* sinks = nullptr;     ///< [n_head] scores without a row, or null
};

/// What comes of it.
struct CausalResults {
  float* out = nullptr;  ///< [d_head·n_head] for each token
  size_t out_stride = 0;
  float* log_sums = nullptr;  ///< [n_head] for each token: log Σ exp(score) over what it sees, sinks included
  size_t log_sums_stride = 0;
};

/// Log sums of queries' scores, for each token `stride` elements behind the one before; none: not known.
struct LogSums {
  const float* of = nullptr;
  size_t stride = 0;
};

/// Whether this processor has what the functions below need.
bool attends_causally();

/// The part `ith` of `nth` of their attention. Rows as row_kernels_take() says. Tiles of queries go through
/// blocks of rows, and nothing larger than both exists: of a product of queries and keys each sum is used
/// while it is in the core's cache.
void attend_causal(const CausalQueries& queries, const HostRows& k, const HostRows& v,
                   const CausalRange& range, const CausalResults& to, int ith, int nth);

/// The part `ith` of `nth` of what rows receive from them: sums[head · sums_stride + row] += the attention of
/// all queries of the head, for rows from 0 to the last query's own. Where log sums over these rows are
/// known, the products of queries and keys are computed once, else twice.
void add_causal_sums(const CausalQueries& queries, const HostRows& k, const LogSums& known, float* sums,
                     size_t sums_stride, int ith, int nth);

/// The part `ith` of `nth` of what rows receive from a few queries: out[head · out_stride + row] becomes the
/// sum over the head's queries, or the `most` that one of them gives, for rows from 0 to the last query's
/// own. With known log sums the products are computed once, else twice.
void observe_causally(const CausalQueries& queries, const HostRows& k, const LogSums& known, bool most,
                      float* out, size_t out_stride, int ith, int nth);

}  // namespace windowkv
