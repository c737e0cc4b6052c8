#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <span>
#include <string>
#include <vector>

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

/// That an engine of this model and these types can go on with it.
inline void check_prefilled(const Sequence* sequence, const Backends& backends, KvTypes types) {
  if (sequence == nullptr || !sequence->cache) throw Error("the sequence has not been prefilled");
  // A loaded model has backends of its own.
  if (&sequence->cache->backends() != &backends)
    throw Error("the sequence was prefilled by an engine of another model");
  if (sequence->cache->types() != types)
    throw Error("the sequence was prefilled by an engine with other KV cache types");
}

/// That caches of this model and these types can lie in it.
inline void check_pool(const KvPool& pool, const Backends& backends, KvTypes types) {
  if (!pool.memory()) return;
  if (&pool.memory()->backends() != &backends)
    throw Error("the KV pool was made by an engine of another model");
  if (pool.memory()->types() != types)
    throw Error("the KV pool was made by an engine of other KV cache types");
}

/// Gathers which of several caches find no room in a pool beside the others.
class WithoutRoom {
 public:
  /// Calls what takes the room of cache `index`.
  template <typename F>
  void collect(size_t index, F&& take) {
    try {
      take();
    } catch (const PoolFull& e) {
      indices_.push_back(index);
      why_ = e.what();
    }
  }
  /// Throws PoolFull where there was any; `what`: they are, "decode steps".
  void check(const char* what) const {
    if (!indices_.empty())
      throw PoolFull(fmt::format("no room for {} {}: {}", what, fmt::join(indices_, ", "), why_), indices_);
  }

 private:
  std::vector<size_t> indices_;
  std::string why_;
};

}  // namespace windowkv
