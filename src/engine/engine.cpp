#include "windowkv/engine.h"

#include <fmt/format.h>

#include "cache/kv_type.h"
#include "engine/state.h"
#include "windowkv/error.h"

namespace windowkv {

Sequence::Sequence() = default;
Sequence::~Sequence() = default;
Sequence::Sequence(Sequence&&) noexcept = default;
Sequence& Sequence::operator=(Sequence&&) noexcept = default;

void Sequence::rewind() {
  if (!cache) return;
  for (size_t layer = 0; layer < kept.size(); ++layer)
    cache->layer(static_cast<int>(layer)).length = kept[layer];
  cache->forget_masks();
  position = prompt_tokens;
}

Engine::Engine(const Model& model, const EngineOptions& options) {
  if (options.chunk < 1 || options.chunk > 65536)
    throw Error(fmt::format("the chunk is {} tokens; it must be 1 to 65536", options.chunk));
  if (model.weight_bytes() == 0) throw Error(model.path() + ": loaded without weights");
  check_kv_types(model.hparams(), options.kv);
  state_ = std::make_unique<State>(model, options);
}

Engine::~Engine() = default;

KvPool Engine::make_pool(int64_t bytes) {
  const auto& m = state_->m;
  const int64_t rows = bytes / kv_token_bytes(m.hp, state_->options.kv);
  if (rows < 1) throw Error(fmt::format("{} bytes of KV memory hold no token", bytes));
  const int64_t available = m.backends->free_memory();
  if (available >= 0 && bytes > available)
    throw Error(fmt::format("{} bytes of KV memory are asked for and {} are free", bytes, available));
  return KvPool(std::make_shared<KvArena>(*m.backends, m.hp, state_->options.kv, rows));
}

Sequence Engine::fork(const Sequence& sequence, const KvPool& pool) {
  if (!sequence.cache) throw Error("only a prefilled sequence can be forked");
  Sequence copy;
  copy.cache = std::make_unique<KvCache>(*sequence.cache, pool.arena());
  copy.prompt_tokens = sequence.prompt_tokens;
  copy.position = sequence.position;
  copy.kept = sequence.kept;
  copy.groups = sequence.groups;
  copy.kv_types = sequence.kv_types;
  copy.bytes = sequence.bytes;
  copy.bytes.peak = copy.cache->meter().peak();
  return copy;
}

int64_t Engine::compute_bytes() const {
  return state_->prefill_scheduler.buffer_bytes() +
         (state_->decode_scheduler ? state_->decode_scheduler->buffer_bytes() : 0);
}

int64_t KvPool::bytes() const {
  return arena_ ? arena_->rows() * arena_->row_bytes() : 0;
}

int64_t KvPool::free_bytes() const {
  return arena_ ? arena_->free_rows() * arena_->row_bytes() : 0;
}

bool KvPool::fits(int64_t bytes) const {
  return !arena_ || bytes <= arena_->longest_free() * arena_->row_bytes();
}

}  // namespace windowkv
