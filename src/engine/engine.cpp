#include "windowkv/engine.h"

#include <fmt/format.h>

#include "cache/kv_type.h"
#include "engine/checks.h"
#include "engine/eviction.h"
#include "engine/memory_plan.h"
#include "engine/recall.h"
#include "engine/state.h"
#include "support/bytes_text.h"
#include "windowkv/error.h"

namespace windowkv {

Sequence::Sequence() = default;
Sequence::~Sequence() = default;
Sequence::Sequence(Sequence&&) noexcept = default;
Sequence& Sequence::operator=(Sequence&&) noexcept = default;

void Sequence::rewind() {
  if (!cache) return;
  if (eviction && eviction->dropped())
    throw Error("tokens were dropped while decoding; the sequence cannot return to the end of its prompt");
  cache->rewind();
  position = prompt_tokens;
  if (recall) recall->rewind();
}

Engine::Engine(const Model& model, const EngineOptions& options) {
  if (options.chunk < 1 || options.chunk > 65536)
    throw Error(fmt::format("the chunk size is {} tokens; it must be 1 to 65536", options.chunk));
  if (model.weight_bytes() == 0) throw Error(model.path() + ": loaded without weights");
  check_kv_types(model.hparams(), options.kv);
  state_ = std::make_unique<State>(model, options);
}

Engine::~Engine() = default;

KvPool Engine::make_pool(int64_t bytes) {
  const auto& m = state_->m;
  const int64_t unit = kv_row_bytes(state_->options.kv, m.hp.kv_unit());
  const int64_t units = bytes / unit;
  if (units < m.hp.common_units())
    throw Error(fmt::format("{} bytes of KV memory are too few for one token", bytes));
  const auto cut = KvMemory::cut(*m.backends, m.hp, units);
  for (size_t device = 0; device < cut.size(); ++device) {
    const int64_t available = m.backends->free_memory(device);
    const int64_t wanted = cut.size() == 1 ? bytes : cut[device] * unit;
    if (available >= 0 && wanted > available)
      throw Error(fmt::format("{} of KV memory were requested, but {} are free{}", bytes_text(wanted),
                              bytes_text(available), place_text(*m.backends, device)));
  }
  return KvPool(std::make_shared<KvMemory>(*m.backends, m.hp, state_->options.kv, cut));
}

Sequence Engine::fork(const Sequence& sequence, const KvPool& pool) {
  const auto& backends = *state_->m.backends;
  check_prefilled(&sequence, backends, state_->options.kv);
  check_pool(pool, backends, state_->options.kv);
  Sequence copy;
  const std::vector<const KvCache*> all(sequence.kept.size(), sequence.cache.get());
  copy.cache = std::make_unique<KvCache>(all, pool.memory());
  copy.prompt_tokens = sequence.prompt_tokens;
  copy.reused_tokens = sequence.reused_tokens;
  copy.position = sequence.position;
  copy.kept = sequence.kept;
  copy.groups = sequence.groups;
  copy.kv_types = sequence.kv_types;
  copy.bytes = sequence.bytes;
  copy.bytes.peak = copy.cache->meter().peak();
  copy.recalls = sequence.recalls;
  copy.reads_store = sequence.reads_store;
  if (sequence.recall) copy.recall = sequence.recall->fork(*copy.cache);
  copy.evictions = sequence.evictions;
  if (sequence.eviction) copy.eviction = sequence.eviction->fork(*copy.cache);
  return copy;
}

Sequence Engine::compose(std::span<const Sequence* const> by_layer, const KvPool& pool) {
  if (by_layer.size() != static_cast<size_t>(state_->m.hp.n_layer))
    throw Error(fmt::format("{} sequences for {} layers", by_layer.size(), state_->m.hp.n_layer));
  check_pool(pool, *state_->m.backends, state_->options.kv);
  std::vector<const KvCache*> caches;
  caches.reserve(by_layer.size());
  for (const auto* s : by_layer) {
    check_prefilled(s, *state_->m.backends, state_->options.kv);
    if (s->prompt_tokens != by_layer.front()->prompt_tokens || s->position != s->prompt_tokens)
      throw Error("layers can only be composed from sequences of one prompt, rewound to it");
    if (s->recall || s->eviction) throw Error("layers of a sequence that chooses again cannot be composed");
    caches.push_back(s->cache.get());
  }
  Sequence out;
  out.cache = std::make_unique<KvCache>(caches, pool.memory());
  out.prompt_tokens = out.position = by_layer.front()->prompt_tokens;
  out.kv_types = by_layer.front()->kv_types;
  for (size_t layer = 0; layer < by_layer.size(); ++layer) {
    out.kept.push_back(by_layer[layer]->kept[layer]);
    out.bytes.kept += out.kept.back() * kv_token_bytes(state_->m.hp, out.kv_types, static_cast<int>(layer));
  }
  out.bytes.kept += state_->m.hp.state_bytes();
  out.bytes.full = by_layer.front()->bytes.full;
  out.bytes.peak = out.cache->meter().peak();
  return out;
}

DeviceTraffic Engine::prefill_traffic() const {
  return state_->prefill_scheduler.traffic();
}

std::set<std::string> Engine::stray_operations() const {
  auto strays = state_->prefill_scheduler.strays();
  strays.merge(std::set(state_->earlier_decode_strays));
  if (state_->decode_scheduler) strays.merge(std::set(state_->decode_scheduler->strays()));
  return strays;
}

DeviceTraffic Engine::decode_traffic() const {
  auto traffic = state_->earlier_decode_traffic;
  if (state_->decode_scheduler) traffic += state_->decode_scheduler->traffic();
  return traffic;
}

int64_t Engine::compute_bytes() const {
  return state_->prefill_scheduler.buffer_bytes() +
         (state_->decode_scheduler ? state_->decode_scheduler->buffer_bytes() : 0);
}

int64_t KvPool::bytes() const {
  return memory_ ? memory_->units() * memory_->unit_bytes() : 0;
}

int64_t KvPool::free_bytes() const {
  return memory_ ? memory_->free_units() * memory_->unit_bytes() : 0;
}

bool KvPool::fits(int64_t bytes) const {
  return !memory_ || memory_->fits((bytes + memory_->unit_bytes() - 1) / memory_->unit_bytes());
}

}  // namespace windowkv
