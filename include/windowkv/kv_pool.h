#pragma once

#include <cstdint>
#include <memory>

namespace windowkv {

class KvMemory;

/// K and V memory allocated for many sequences (Engine::make_pool). A prefill that is given a pool takes the
/// sequence's caches from it; they return when the sequence is destroyed. A handle: copies refer to the same
/// memory, which is freed with the last of them and of the sequences in it. An empty pool means that every
/// sequence allocates its own memory. The model must outlive the pool; the engine that made it need not, and
/// other engines of the same model and KV types may use it. Sequences may take and return memory, and these
/// functions may be called, from any thread; what fits() says holds until somebody else takes some.
class KvPool {
 public:
  KvPool() = default;
  explicit KvPool(std::shared_ptr<KvMemory> memory) : memory_(std::move(memory)) {}

  int64_t bytes() const;
  int64_t free_bytes() const;
  /// Whether the caches of one more sequence of `bytes` bytes fit now: MemoryPlan's kv_kept + kv_reserve, or
  /// PoolPlan's sequence_bytes, which is larger where several devices hold unequal parts of a sequence.
  bool fits(int64_t bytes) const;

  /// For the engine.
  const std::shared_ptr<KvMemory>& memory() const { return memory_; }

 private:
  std::shared_ptr<KvMemory> memory_;
};

/// How many sequences fit in a given amount of KV memory.
struct PoolPlan {
  int64_t sequences = 0;       ///< at the same time, one of them in prefill
  int64_t sequence_bytes = 0;  ///< that one sequence's caches need in the pool
  int64_t scratch_bytes = 0;   ///< K and V of one layer in full, during prefill
  int64_t pool_bytes() const { return sequences * sequence_bytes; }
};

}  // namespace windowkv
