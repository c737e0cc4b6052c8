// Token-major decode: one step of many sequences over compressed caches of different lengths.
#include <algorithm>
#include <numeric>

#include "engine/checks.h"
#include "engine/decode_graph.h"
#include "engine/eviction.h"
#include "engine/recall.h"
#include "engine/state.h"
#include "support/clock.h"

namespace windowkv {

namespace {

void check(std::span<const Step> steps, const LoadedModel& m, KvTypes types) {
  if (steps.empty()) throw Error("a decode step needs a sequence");
  for (size_t i = 0; i < steps.size(); ++i) {
    const auto& [sequence, token] = steps[i];
    check_prefilled(sequence, *m.backends, types);
    const auto earlier = steps.first(i);
    if (std::ranges::find(earlier, sequence, &Step::sequence) != earlier.end())
      throw Error("a sequence appears twice in one decode step");
    check_tokens(std::span(&token, 1), m.hp);
  }
}

/// Room for one more token of each; all that must grow in a pool find their places before any moves.
void make_room(std::span<const Step> steps) {
  struct Growth {
    KvCache* cache;
    std::unique_ptr<KvSegment> larger;
  };
  std::vector<Growth> growing;
  WithoutRoom without_room;
  for (size_t i = 0; i < steps.size(); ++i)
    if (auto& cache = *steps[i].sequence->cache; !cache.has_room(1))
      without_room.collect(i, [&] { growing.push_back({&cache, cache.larger_segment(1)}); });
  without_room.check("decode steps");
  if (growing.empty()) return;
  for (auto& [cache, larger] : growing) cache->grow(1, std::move(larger));
  for (const auto& s : steps) s.sequence->bytes.peak = s.sequence->cache->meter().peak();
}

}  // namespace

void Engine::State::step(std::span<const Step> steps, DecodeGraph::Result result) {
  check(steps, m, options.kv);
  make_room(steps);
  for (const auto& s : steps)
    if (s.sequence->recall) s.sequence->recall->before_step(*s.sequence->cache);
  auto& [order, caches, tokens, positions] = columns;
  order.resize(steps.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return DecodeGraph::before(*steps[a].sequence->cache, *steps[b].sequence->cache);
  });
  caches.clear();
  tokens.clear();
  positions.clear();
  for (auto i : order) {
    caches.push_back(steps[i].sequence->cache.get());
    tokens.push_back(steps[i].token);
    positions.push_back(static_cast<int32_t>(steps[i].sequence->position));
  }
  if (!decode_graph || !decode_graph->serves(caches, result)) {
    if (const size_t nodes = DecodeGraph::node_limit(m.hp, steps.size()); nodes > decode_nodes) {
      decode_nodes = nodes;
      if (decode_scheduler) {
        earlier_decode_traffic += decode_scheduler->traffic();
        earlier_decode_strays.merge(std::set(decode_scheduler->strays()));
      }
      decode_scheduler = std::make_unique<Scheduler>(*m.backends, nodes);
    }
    decode_graph.reset();
    auto graph = std::make_unique<DecodeGraph>(m, caches, result);
    decode_scheduler->allocate(graph->graph());
    decode_graph = std::move(graph);
    ++graphs_built;
  }
  decode_graph->set_inputs(caches, tokens, positions, *decode_scheduler);
  decode_scheduler->compute(decode_graph->graph());
  for (const auto& s : steps) {
    s.sequence->cache->lengthen(1);
    ++s.sequence->position;
    const auto start = Clock::now();
    auto count = [&](LaterChoices& choices) {
      ++choices.count;
      choices.ms += ms_since(start);
    };
    if (s.sequence->recall && s.sequence->recall->after_step(*s.sequence->cache)) count(s.sequence->recalls);
    if (s.sequence->eviction && s.sequence->eviction->after_step(*s.sequence->cache, s.sequence->position))
      count(s.sequence->evictions);
  }
}

std::span<const float> Engine::decode(Sequence& sequence, Token token) {
  const Step step{&sequence, token};
  return decode(std::span(&step, 1));
}

std::span<const float> Engine::decode(std::span<const Step> steps) {
  state_->step(steps, DecodeGraph::Result::kLogits);
  const auto& order = state_->columns.order;
  const auto* result = state_->decode_graph->result();
  const auto vocab = static_cast<size_t>(result->ne[0]);
  auto& logits = state_->logits;
  logits.resize(vocab * steps.size());
  if (std::is_sorted(order.begin(), order.end())) {
    ggml_backend_tensor_get(result, logits.data(), 0, ggml_nbytes(result));
  } else {
    for (size_t column = 0; column < order.size(); ++column)
      ggml_backend_tensor_get(result, logits.data() + order[column] * vocab, column * result->nb[1],
                              vocab * sizeof(float));
  }
  return logits;
}

std::span<const Token> Engine::decode_greedy(std::span<const Step> steps) {
  state_->step(steps, DecodeGraph::Result::kGreedy);
  auto& [order, caches, ids, positions] = state_->columns;  // the tokens have served
  ggml_backend_tensor_get(state_->decode_graph->result(), ids.data(), 0, ids.size() * sizeof(Token));
  state_->ids.resize(order.size());
  for (size_t column = 0; column < order.size(); ++column) state_->ids[order[column]] = ids[column];
  return state_->ids;
}

int64_t Engine::graphs_built() const {
  return state_->graphs_built;
}

}  // namespace windowkv
