#pragma once

#include <fmt/format.h>

#include <span>

#include "cache/kv_cache.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"

/// What callers of the engine may get wrong.
namespace windowkv {

inline void check_tokens(std::span<const Token> tokens, const HParams& hp) {
  for (auto token : tokens)
    if (token < 0 || token >= hp.n_vocab)
      throw Error(fmt::format("token id {} is outside the vocabulary of {}", token, hp.n_vocab));
}

/// Whether an engine of these types can go on with it.
inline void check_prefilled(const Sequence* sequence, KvTypes types) {
  if (sequence == nullptr || !sequence->cache) throw Error("decode needs a prefilled sequence");
  if (sequence->cache->types() != types)
    throw Error("the sequence was prefilled by an engine with other KV cache types");
}

}  // namespace windowkv
