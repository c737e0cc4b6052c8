#pragma once

#include <cstdint>
#include <memory>

namespace windowkv {

class KvMemory;

/// K and V memory set aside for many sequences (Engine::make_pool). A prefill that is given one takes the
/// sequence's caches from it; they return when the sequence goes. A handle: copies are the same memory, which
/// goes with the last of them and of the sequences that lie in it. An empty one means that every sequence has
/// memory of its own. The model must outlive it; the engine that made it need not, and others of the same
/// model and KV types may use it. Sequences may take and give back memory, and these functions be called, in
/// any thread; what fits() says holds until another takes some.
class KvPool {
 public:
  KvPool() = default;
  explicit KvPool(std::shared_ptr<KvMemory> memory) : memory_(std::move(memory)) {}

  int64_t bytes() const;
  int64_t free_bytes() const;
  /// Whether the caches of one more sequence fit now, of so many bytes: MemoryPlan's kv_kept + kv_reserve, or
  /// PoolPlan's sequence_bytes, which are more where several devices hold unequal parts of a sequence.
  bool fits(int64_t bytes) const;

  /// For the engine.
  const std::shared_ptr<KvMemory>& memory() const { return memory_; }

 private:
  std::shared_ptr<KvMemory> memory_;
};

/// How many sequences a KV memory budget holds.
struct PoolPlan {
  int64_t sequences = 0;       ///< at once, one of them in prefill
  int64_t sequence_bytes = 0;  ///< of the pool that one sequence's caches need
  int64_t scratch_bytes = 0;   ///< K and V of one layer in full, while a prompt is read
  int64_t pool_bytes() const { return sequences * sequence_bytes; }
};

}  // namespace windowkv
