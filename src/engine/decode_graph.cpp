#include "engine/decode_graph.h"

#include <algorithm>
#include <cmath>

#include "engine/chunk_pass.h"

namespace windowkv {

namespace {

// Attention reads rows in steps of this many, the ones past the length masked, so that one graph serves as
// many tokens.
constexpr int64_t kLengthStep = KvArena::kAttentionStep;
// A graph whose masks hide more than this beyond the step is not used again, though it could be.
constexpr int64_t kMostHidden = 2 * kLengthStep;

const ggml_fp16_t kVisible = ggml_fp32_to_fp16(0.0f);
const ggml_fp16_t kHidden = ggml_fp32_to_fp16(-INFINITY);

uint64_t state_id(const KvCache& cache) {
  return cache.states() != nullptr ? cache.states()->id() : 0;
}

int64_t rounded_up(int64_t length) {
  return (length + kLengthStep) / kLengthStep * kLengthStep;
}

bool same_arenas(const KvCache& a, const KvCache& b) {
  for (int layer = 0; layer < a.layers(); ++layer)
    if (a.arena(layer).id() != b.arena(layer).id()) return false;
  return true;
}

/// Of a layer that has rows, with the token that is about to be stored.
AttendedRows attended_rows(const KvCache& cache, int layer, int64_t window) {
  const auto& [rows, length, prompt, begins] = cache.layer(layer);
  const int64_t d_head = cache.d_head(layer);
  return {.k = host_rows(rows.k(), d_head),
          .v = host_rows(rows.v(), d_head),
          .length = length + 1,
          .begins = begins,
          .chosen = cache.chosen != nullptr ? &(*cache.chosen)[static_cast<size_t>(layer)] : nullptr,
          .window = window};
}

}  // namespace

bool DecodeGraph::before(const KvCache& a, const KvCache& b) {
  return std::pair(a.arena(0).id(), a.layer(0).rows.first()) <
         std::pair(b.arena(0).id(), b.layer(0).rows.first());
}

size_t DecodeGraph::node_limit(const HParams& hp, size_t caches) {
  const auto experts = static_cast<size_t>(hp.mixture.used);
  const size_t in_layer = 64 + (experts > 0 ? 48 + 2 * experts : 0) + (hp.n_embd_layer > 0 ? 32 : 0);
  return 128 + static_cast<size_t>(hp.n_layer) * (in_layer + 32 * caches);
}

DecodeGraph::DecodeGraph(LoadedModel& m, Batch caches, Result result)
    : graph_(node_limit(m.hp, caches.size())), kind_(result), hp_(m.hp), versions_(caches.size(), 0) {
  auto* ctx = graph_.ctx();
  const auto count = static_cast<int64_t>(caches.size());
  for (size_t c = 0; c < caches.size(); ++c) {
    const bool beside = c > 0 && same_arenas(*caches[c], *caches[c - 1]);
    arenas_.push_back(beside ? arenas_[c - 1] : c);
  }
  for (const auto* cache : caches) queries_.push_back(cache->queries != nullptr ? cache->queries->id() : 0);
  for (const auto* cache : caches) states_.push_back(state_id(*cache));
  in_place_.resize(static_cast<size_t>(m.hp.n_layer));
  lay_out(m, caches);
  tokens_ = graph_.input(GGML_TYPE_I32, count);
  auto* x = m.family->embed(ctx, m.hp, m.weights, tokens_);
  std::vector<Family::LayerTokens> tokens(static_cast<size_t>(m.hp.n_layer));
  for (int layer = 0; layer < m.hp.n_layer && m.hp.n_embd_layer > 0; ++layer) {
    auto& of_layer = tokens[static_cast<size_t>(layer)];
    of_layer = {x, m.family->embed_in_layer(ctx, m.hp, m.weights, layer, tokens_)};
    // All first, in one run of nodes on the CPU, which has the tables.
    graph_.add(of_layer.rows);
  }
  for (int layer = 0; layer < m.hp.n_layer; ++layer) {
    const auto& tokens_of_layer = tokens[static_cast<size_t>(layer)];
    if (const auto& b = *m.backends; layer > 0 && b.device_of(layer) != b.device_of(layer - 1))
      graph_.read_on(x, b.backend(b.device_of(layer)));
    if (m.hp.recurrent(layer)) {
      x = m.family->finish_layer(ctx, m.hp, m.weights, layer, x, recur(m, caches, layer, x), tokens_of_layer);
      continue;
    }
    const bool own = m.hp.has_rows(layer);
    const auto& c = classes_[layer_class_[static_cast<size_t>(m.hp.rows_layer(layer))]];
    const auto qkv =
        m.family->attention_inputs(ctx, m.hp, m.weights, layer, x, positions_on(m.backends->device_of(layer)),
                                   own ? Family::kQkv : Family::kQ);
    if (own) {
      store(caches, layer, qkv, inputs_[c.layout.device]->numbers(ctx, c.slots, count));
      keep_queries(caches, layer, qkv.q);
    }
    auto* read = build_gated(ctx, attention(m, caches, layer, qkv.q, c), qkv.gate);
    x = m.family->finish_layer(ctx, m.hp, m.weights, layer, x, read, tokens_of_layer);
  }
  x = m.family->logits(ctx, m.hp, m.weights, x);
  result_ = graph_.output(result == Result::kGreedy ? ggml_argmax(ctx, x) : x);
}

void DecodeGraph::lay_out(LoadedModel& m, Batch caches) {
  const auto& backends = *m.backends;
  sizes_.resize(backends.device_count());
  inputs_.resize(backends.device_count());
  positions_.resize(backends.device_count());
  std::vector<bool> used(backends.device_count());
  for (auto& sizes : sizes_) StepInputs::Sizes::add(sizes.numbers, static_cast<int64_t>(caches.size()));
  for (int layer = 0; layer < m.hp.n_layer; ++layer) {
    used[backends.device_of(layer)] = true;
    for (const auto* cache : caches) places_.push_back(place_of(*cache, layer));
    layer_class_.push_back(m.hp.has_rows(layer) ? class_of(caches, layer, m.attention(layer).window)
                                                : kNoClass);
  }
  for (size_t device = 0; device < used.size(); ++device)
    if (used[device]) inputs_[device].emplace(backends, sizes_[device], device);
}

ggml_tensor* DecodeGraph::positions_on(size_t device) {
  auto& positions = positions_[device];
  if (positions == nullptr)
    positions = inputs_[device]->numbers(graph_.ctx(), 0, static_cast<int64_t>(versions_.size()));
  return positions;
}

DecodeGraph::Layout DecodeGraph::layout_of(Batch caches, int layer, int64_t window) const {
  Layout out;
  out.window = window;
  out.device = caches.front()->backends().device_of(layer);
  int64_t lowest = 0;
  for (size_t c = 0; c < caches.size(); ++c) {
    const auto& [rows, length, prompt, begins] = caches[c]->layer(layer);
    if (arenas_[c] == c) lowest = lowest_row(caches, c, layer);
    out.offsets.push_back(rows.first() - lowest);
    out.lengths.push_back(length);
    out.begins.push_back(begins);
    if (in_place(*caches[c], layer)) continue;
    const int64_t left = caches[c]->arena_rows(layer).count() - rows.first();
    const int64_t wanted = rounded_up(length);
    const int64_t heads = begins.empty() ? 1 : hp_.n_head_kv;
    if (!out.runs.empty() && heads == 1 && out.runs.back().heads == 1) {
      auto& run = out.runs.back();
      const int64_t distance = out.offsets[c] - out.offsets[c - 1];
      const int64_t visible = std::max(run.visible, wanted);
      // Lengths that are too different would have attention pass over many hidden rows.
      if (arenas_[c] == arenas_[run.first] && (run.count == 1 || distance == run.distance) &&
          visible <= std::min(distance, left) && visible <= 2 * std::min(run.visible, wanted)) {
        run = {run.first, run.count + 1, visible, distance, 1};
        continue;
      }
    }
    out.runs.push_back({c, 1, std::min(wanted, left), 0, heads});
  }
  return out;
}

size_t DecodeGraph::class_of(Batch caches, int layer, int64_t window) {
  auto layout = layout_of(caches, layer, window);
  for (size_t i = 0; i < classes_.size(); ++i)
    if (classes_[i].layout == layout) return i;
  auto& c = classes_.emplace_back();
  c.layer = layer;
  auto& sizes = sizes_[layout.device];
  c.slots = StepInputs::Sizes::add(sizes.numbers, static_cast<int64_t>(caches.size()));
  c.rows.resize(caches.size(), 0);
  for (const auto& run : layout.runs) {
    const int64_t stacks = static_cast<int64_t>(run.count) * run.heads;
    // What changes nothing writes to the value before all masks.
    if (sizes.mask == 0) StepInputs::Sizes::add(sizes.mask, 1);
    c.masks.push_back(StepInputs::Sizes::add(sizes.mask, stacks * run.visible));
    c.shown.push_back(sizes.shown);
    sizes.shown += stacks;
    c.hidden.push_back(sizes.hidden);
    if (window > 0) sizes.hidden += stacks;
  }
  c.layout = std::move(layout);
  return classes_.size() - 1;
}

void DecodeGraph::store(Batch caches, int layer, const Family::Qkv& qkv, ggml_tensor* slots) {
  auto* ctx = graph_.ctx();
  for (size_t first = 0, next; first < caches.size(); first = next) {
    for (next = first; next < caches.size() && arenas_[next] == first;) ++next;
    const auto arena = caches[first]->arena_rows(layer);
    const int64_t start = lowest_row(caches, first, layer);
    const auto count = static_cast<int64_t>(next - first);
    auto* ids = count == slots->ne[0] ? slots : ggml_view_1d(ctx, slots, count, first * slots->nb[0]);
    for (auto [from, to] : {std::pair{qkv.k, arena.k}, {qkv.v, arena.v}})
      graph_.add(
          ggml_set_rows(ctx, KvRows::slice(ctx, to, start, arena.count() - start),
                        ggml_reshape_2d(ctx, token_columns(ctx, from, static_cast<int64_t>(first), count),
                                        to->ne[0], count),
                        ids));
  }
}

void DecodeGraph::keep_queries(Batch caches, int layer, ggml_tensor* q) {
  auto* ctx = graph_.ctx();
  for (size_t c = 0; c < caches.size(); ++c) {
    if (queries_[c] == 0) continue;
    auto* place = caches[c]->queries->of(layer);
    auto* column = ggml_reshape_1d(ctx, token_columns(ctx, q, static_cast<int64_t>(c), 1), place->ne[0]);
    graph_.add(ggml_cpy(ctx, column, place));
  }
}

ggml_tensor* DecodeGraph::recur(LoadedModel& m, Batch caches, int layer, ggml_tensor* x) {
  std::vector<Family::StateRun> runs;
  for (size_t c = 0; c < caches.size(); ++c)
    runs.push_back(state_run(caches[c]->states()->layer(layer), static_cast<int64_t>(c), 1));
  return m.family->recur(graph_, m.hp, m.weights, layer, x, runs);
}

ggml_tensor* DecodeGraph::attention(LoadedModel& m, Batch caches, int layer, ggml_tensor* q,
                                    const LayoutClass& c) {
  auto* ctx = graph_.ctx();
  const auto how = m.attention(layer);
  const int from = m.hp.rows_layer(layer);
  if (c.layout.runs.empty()) {
    auto& rows = in_place_[static_cast<size_t>(layer)];
    rows = {m.hp.heads(layer).n_head_kv, how.logits,
            how.sinks != nullptr ? static_cast<const float*>(how.sinks->data) : nullptr,
            std::vector<AttendedRows>(caches.size())};
    return attend_in_place(ctx, q, rows);
  }
  std::vector<ggml_tensor*> parts;
  for (size_t i = 0; i < c.layout.runs.size(); ++i) {
    const auto& run = c.layout.runs[i];
    const auto& cache = *caches[run.first];
    const KvStack stack{cache.arena_rows(from),
                        cache.layer(from).rows.first(),
                        run.distance,
                        static_cast<int64_t>(run.count),
                        run.visible,
                        run.heads > 1};
    auto* mask = inputs_[c.layout.device]->mask(graph_, c.masks[i], run.visible, stack.caches * run.heads);
    parts.push_back(
        attend(ctx, how, token_columns(ctx, q, static_cast<int64_t>(run.first), stack.caches), stack, mask));
  }
  return join_columns(ctx, std::move(parts));
}

bool DecodeGraph::in_place(const KvCache& cache, int layer) const {
  const auto& backends = cache.backends();
  const auto arena = cache.arena_rows(layer);
  const int64_t d_head = cache.d_head(layer);
  return backends.is_cpu(backends.device_of(layer)) && row_kernels_take(arena.k->type, d_head) &&
         row_kernels_take(arena.v->type, d_head);
}

int64_t DecodeGraph::lowest_row(Batch caches, size_t first, int layer) const {
  int64_t lowest = caches[first]->layer(layer).rows.first();
  for (size_t c = first + 1; c < caches.size() && arenas_[c] == first; ++c)
    lowest = std::min(lowest, caches[c]->layer(layer).rows.first());
  return lowest;
}

bool DecodeGraph::lies_as_built(Batch caches) const {
  for (size_t layer = 0; layer < layer_class_.size(); ++layer) {
    if (layer_class_[layer] == kNoClass) continue;
    const int other = classes_[layer_class_[layer]].layer;
    for (size_t c = 0; c < caches.size(); ++c) {
      if (place_of(*caches[c], static_cast<int>(layer)) != places_[layer * caches.size() + c] ||
          caches[c]->layer(static_cast<int>(layer)).length != caches[c]->layer(other).length ||
          caches[c]->layer(static_cast<int>(layer)).begins != caches[c]->layer(other).begins)
        return false;
    }
  }
  return true;
}

bool DecodeGraph::serves(Batch caches, Result result) const {
  if (result != kind_ || caches.size() != versions_.size()) return false;
  for (size_t c = 0; c < caches.size(); ++c)
    if ((caches[c]->queries != nullptr ? caches[c]->queries->id() : 0) != queries_[c] ||
        state_id(*caches[c]) != states_[c])
      return false;
  bool same = true;
  for (size_t c = 0; c < caches.size(); ++c) same = same && caches[c]->version() == versions_[c];
  if (!same && !lies_as_built(caches)) return false;
  for (const auto& c : classes_)
    for (const auto& run : c.layout.runs) {
      int64_t longest = 0;
      for (size_t i = run.first; i < run.first + run.count; ++i)
        longest = std::max(longest, caches[i]->layer(c.layer).length);
      if (longest >= run.visible || longest + kMostHidden < run.visible) return false;
    }
  return true;
}

void DecodeGraph::set_masks(Batch caches, LayoutClass& c) {
  auto& inputs = *inputs_[c.layout.device];
  for (size_t r = 0; r < c.layout.runs.size(); ++r) {
    const auto& run = c.layout.runs[r];
    int64_t stack = 0;
    for (size_t column = run.first; column < run.first + run.count; ++column) {
      const int64_t length = caches[column]->layer(c.layer).length;
      const bool stale = caches[column]->version() != versions_[column] || c.rows[column] != length;
      for (int64_t head = 0; head < run.heads; ++head, ++stack) {
        const int64_t first = c.masks[r] + stack * run.visible;
        inputs.show(c.shown[r] + stack, first + length);
        const int64_t window = c.layout.window;
        if (window > 0) inputs.hide(c.hidden[r] + stack, length >= window ? first + length - window : 0);
        if (!stale) continue;
        int64_t begin = run.heads == 1 ? 0 : caches[column]->layer(c.layer).begin_of(head);
        if (window > 0) begin = std::max(begin, length + 1 - window);
        values_.assign(static_cast<size_t>(run.visible), kHidden);
        std::fill(values_.begin() + begin, values_.begin() + length + 1, kVisible);
        inputs.set_mask(first, values_);
      }
      c.rows[column] = length + 1;
    }
  }
}

void DecodeGraph::set_inputs(Batch caches, std::span<const int32_t> tokens,
                             std::span<const int32_t> positions, Scheduler& scheduler) {
  ggml_backend_tensor_set(tokens_, tokens.data(), 0, ggml_nbytes(tokens_));
  for (auto& inputs : inputs_)
    for (size_t i = 0; inputs && i < positions.size(); ++i)
      inputs->set_number(static_cast<int64_t>(i), positions[i]);
  for (auto& c : classes_) {
    auto& inputs = *inputs_[c.layout.device];
    for (size_t i = 0; i < caches.size(); ++i)
      inputs.set_number(c.slots + static_cast<int64_t>(i),
                        c.layout.offsets[i] + caches[i]->layer(c.layer).length);
    set_masks(caches, c);
  }
  const auto& backends = caches.front()->backends();
  for (size_t device = 0; device < inputs_.size(); ++device) {
    if (!inputs_[device]) continue;
    const int64_t bytes = inputs_[device]->upload();
    if (!backends.is_cpu(device)) scheduler.add_copy(bytes);
  }
  for (size_t c = 0; c < caches.size(); ++c) versions_[c] = caches[c]->version();
  for (size_t layer = 0; layer < in_place_.size(); ++layer) {
    const int from = hp_.rows_layer(static_cast<int>(layer));
    for (size_t c = 0; c < in_place_[layer].columns.size(); ++c)
      in_place_[layer].columns[c] =
          attended_rows(*caches[c], from, classes_[layer_class_[static_cast<size_t>(from)]].layout.window);
  }
}

}  // namespace windowkv
