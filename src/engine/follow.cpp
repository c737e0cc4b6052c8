// Tokens that are known beforehand, behind what a sequence holds: all positions together, layer by layer.
#include <algorithm>

#include "engine/attention.h"
#include "engine/checks.h"
#include "engine/chunk_pass.h"
#include "engine/recall.h"
#include "engine/state.h"

namespace windowkv {

namespace {

void follow_layer(LoadedModel& m, Scheduler& scheduler, const Pack& pack, const ChunkPass& pass, int layer,
                  const KvCache& cache) {
  const auto& cached = cache.layer(m.hp.rows_layer(layer));
  for (int64_t first = 0; first < pack.tokens(); first += pass.chunk()) {
    const int64_t count = std::min(pass.chunk(), pack.tokens() - first);
    Graph graph(chunk_nodes(m, 1));
    if (m.hp.recurrent(layer)) {
      const auto state = state_run(cache.states()->layer(layer), 0, count);
      pass.recur(graph, layer, first, count, std::span(&state, 1));
    } else {
      pass.pass(graph, layer, first, count,
                {.rows = cached.rows, .end = cached.length + first, .begins = cached.begins});
    }
    scheduler.run(graph);
  }
}

/// Whether KV heads keep different numbers of tokens somewhere.
bool has_begins(const KvCache& cache) {
  for (int layer = 0; layer < cache.layers(); ++layer)
    if (!cache.layer(layer).begins.empty()) return true;
  return false;
}

}  // namespace

void Engine::follow(Sequence& sequence, std::span<const Token> tokens,
                    const std::function<void(int64_t index, std::span<const float> logits)>& logits) {
  auto& m = state_->m;
  check_prefilled(&sequence, *m.backends, state_->options.kv);
  check_tokens(tokens, m.hp);
  if (tokens.empty()) return;
  // What is kept changes from token to token, or no mask is made for its heads.
  if (sequence.recall || sequence.eviction || (!ChunkPass::takes_begins(m) && has_begins(*sequence.cache))) {
    for (size_t i = 0; i < tokens.size(); ++i) logits(static_cast<int64_t>(i), decode(sequence, tokens[i]));
    return;
  }
  auto& cache = *sequence.cache;
  const auto count = static_cast<int64_t>(tokens.size());
  if (!cache.has_room(count)) {
    cache.grow(count, cache.larger_segment(count));
    sequence.bytes.peak = cache.meter().peak();
  }
  int64_t longest = 0;
  for (int layer = 0; layer < m.hp.n_layer; ++layer) longest = std::max(longest, cache.layer(layer).length);

  Pack pack(*m.backends, m.hp, {count}, 0, 1, {}, false, sequence.position);
  const int64_t chunk = std::min<int64_t>(state_->options.chunk, count);
  ChunkPass pass(m, state_->prefill_scheduler, pack, chunk, longest + count);
  for (int64_t first = 0; first < count; first += chunk)
    pass.embed(first, tokens.subspan(static_cast<size_t>(first),
                                     static_cast<size_t>(std::min(chunk, count - first))));
  for (int layer = 0; layer < m.hp.n_layer; ++layer) {
    pass.go_to(layer);
    follow_layer(m, state_->prefill_scheduler, pack, pass, layer, cache);
    pack.wait();
  }
  cache.lengthen(count);
  sequence.position += count;

  pass.all_logits(logits);
}

}  // namespace windowkv
