#include "cache/kv_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "support/unique_id.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

std::vector<int64_t> units_by_device(const Backends& backends, const std::vector<KvSegment::Run>& runs) {
  std::vector<int64_t> units(backends.device_count(), 0);
  for (const auto& run : runs) units[run.device] += run.capacity * run.units;
  return units;
}

std::vector<int64_t> capacities_of(std::span<const KvCache* const> by_layer) {
  std::vector<int64_t> all;
  all.reserve(by_layer.size());
  for (size_t i = 0; i < by_layer.size(); ++i)
    all.push_back(by_layer[i]->layer(static_cast<int>(i)).rows.capacity());
  return all;
}

/// Rows in use and where they go.
struct RowsCopy {
  const KvCache::Layer& from;
  const KvRows& to;
};

void copy_layers(const Backends& backends, std::span<const RowsCopy> copies) {
  // No graph without nodes, which servers do not take.
  if (std::ranges::all_of(copies, [](const RowsCopy& copy) { return copy.from.length == 0; })) return;
  const size_t nodes = 16 + 16 * copies.size();
  Graph graph(nodes);
  for (const auto& [layer, target] : copies) {
    const auto& rows = layer.rows;
    const int64_t length = layer.length;
    if (length == 0) continue;
    for (auto [from, to] : {std::pair{rows.k(), target.k()}, {rows.v(), target.v()}})
      graph.add(ggml_cpy(graph.ctx(), KvRows::slice(graph.ctx(), from, 0, length),
                         KvRows::slice(graph.ctx(), to, 0, length)));
  }
  Scheduler(backends, 2 * nodes).run(graph);
}

}  // namespace

KvRows::KvRows(ggml_context* ctx, const KvArena::Rows& all, int64_t first, int64_t capacity) : first_(first) {
  if (capacity == 0) return;
  k_ = slice(ctx, all.k, first, capacity);
  v_ = slice(ctx, all.v, first, capacity);
  for (auto* view : {k_, v_}) ggml_backend_view_init(view);
}

ggml_tensor* KvRows::by_head(ggml_context* ctx, ggml_tensor* rows, int64_t d_head, int64_t count) {
  const size_t head = ggml_row_size(rows->type, d_head);
  return ggml_view_3d(ctx, rows, d_head, count, rows->ne[0] / d_head, rows->nb[1], head, 0);
}

ggml_tensor* KvRows::slice(ggml_context* ctx, ggml_tensor* rows, int64_t first, int64_t count) {
  return ggml_view_2d(ctx, rows, rows->ne[0], count, rows->nb[1], static_cast<size_t>(first) * rows->nb[1]);
}

size_t KvSegment::take(KvArena& arena, std::span<const size_t> runs) {
  for (size_t count = runs.size(); count > 0; --count) {
    int64_t units = 0;
    for (size_t run : runs.first(count)) units += runs_[run].capacity * runs_[run].units;
    const auto first = arena.take(units);
    if (!first) continue;
    pieces_.emplace_back(arena, *first, units);
    int64_t next = *first;
    for (size_t run : runs.first(count)) {
      places_[run] = {&arena, next};
      next += runs_[run].capacity * runs_[run].units;
    }
    return count;
  }
  return 0;
}

KvSegment::KvSegment(std::shared_ptr<KvMemory> memory, const std::vector<Run>& runs, KvMeter& meter)
    : memory_(std::move(memory)), meter_(meter), runs_(runs), places_(runs.size()) {
  const auto wanted = units_by_device(memory_->backends(), runs);
  units_ = std::accumulate(wanted.begin(), wanted.end(), int64_t{0});
  for (size_t device = 0; device < wanted.size(); ++device) {
    std::vector<size_t> its;
    for (size_t run = 0; run < runs.size(); ++run)
      if (runs[run].device == device) its.push_back(run);
    const auto& arenas = memory_->on(device);
    // In one piece where that fits, so that sequences lie at equal distances.
    std::span<const size_t> left = its;
    for (const auto& arena : arenas)
      if (!left.empty() && arena->longest_free() >= wanted[device]) left = left.subspan(take(*arena, left));
    for (const auto& arena : arenas)
      if (!left.empty()) left = left.subspan(take(*arena, left));
    if (!left.empty())
      throw PoolFull(
          fmt::format("the KV pool has {} contiguous bytes free, but {} are needed; release another sequence "
                      "first or make a larger pool",
                      memory_->longest_free(device) * memory_->unit_bytes(),
                      wanted[device] * memory_->unit_bytes()),
          {});
  }
  views_.reset(ggml_init({2 * runs.size() * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
  for (size_t i = 0; i < runs.size(); ++i)
    layers_.emplace_back(views_.get(), places_[i].arena->rows_of(runs[i].units),
                         places_[i].unit / runs[i].units, runs[i].capacity);
  meter_.add(units_ * memory_->unit_bytes());
}

KvSegment::~KvSegment() {
  meter_.add(-units_ * memory_->unit_bytes());
}

const KvRows& KvSegment::layer_as(int index, int64_t units) {
  const auto& run = runs_[static_cast<size_t>(index)];
  if (units == run.units) return layer(index);
  auto& other = others_[{index, units}];
  if (!other.views) {
    other.views.reset(ggml_init({2 * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
    other.rows = KvRows(other.views.get(), arena(index).rows_of(units),
                        layer(index).first() * run.units / units, run.capacity);
  }
  return other.rows;
}

KvCache::KvCache(const Backends& backends, const HParams& hp, KvTypes types,
                 const std::vector<int64_t>& capacities, std::shared_ptr<KvMemory> shared)
    : backends_(backends),
      hp_(hp),
      types_(types),
      shared_(std::move(shared)),
      meter_(std::make_unique<KvMeter>()),
      version_(unique_id()) {
  if (shared_) segments_.push_back(pooled_segment(capacities));
  for (size_t i = 0; i < capacities.size(); ++i) {
    const int layer = static_cast<int>(i);
    if (!shared_) segments_.push_back(own_segment(layer, capacities[i]));
    layers_.push_back({.rows = segment_of(layer).layer(shared_ ? layer : 0)});
  }
  if (!hp.recurrent()) return;
  states_ = std::make_unique<RecurrentState>(backends, hp);
  meter_->add(states_->bytes());
}

KvCache::KvCache(std::span<const KvCache* const> by_layer, std::shared_ptr<KvMemory> shared)
    : KvCache(by_layer.front()->backends_, by_layer.front()->hp_, by_layer.front()->types_,
              capacities_of(by_layer), std::move(shared)) {
  std::vector<RowsCopy> copies;
  copies.reserve(layers_.size());
  for (int i = 0; i < layers(); ++i)
    copies.push_back({by_layer[static_cast<size_t>(i)]->layer(i), layer(i).rows});
  copy_layers(backends_, copies);
  for (int i = 0; i < layers(); ++i) {
    const auto& from = by_layer[static_cast<size_t>(i)]->layer(i);
    layer(i).length = from.length;
    layer(i).prompt = from.prompt;
    layer(i).begins = from.begins;
    if (states_) states_->copy(i, *by_layer[static_cast<size_t>(i)]->states_);
  }
}

KvSegment::Run KvCache::run_of(int layer, int64_t capacity) const {
  const size_t device = backends_.device_of(layer);
  return {KvArena::rounded_up(backends_, hp_, types_, capacity, device, layer), hp_.row_units(layer), device};
}

std::unique_ptr<KvSegment> KvCache::pooled_segment(const std::vector<int64_t>& capacities) {
  std::vector<KvSegment::Run> runs;
  runs.reserve(capacities.size());
  for (size_t i = 0; i < capacities.size(); ++i) runs.push_back(run_of(static_cast<int>(i), capacities[i]));
  return std::make_unique<KvSegment>(shared_, runs, *meter_);
}

std::unique_ptr<KvSegment> KvCache::own_segment(int layer, int64_t capacity) {
  const std::vector<KvSegment::Run> runs = {run_of(layer, capacity)};
  return std::make_unique<KvSegment>(
      std::make_shared<KvMemory>(backends_, hp_, types_, units_by_device(backends_, runs)), runs, *meter_);
}

void KvCache::set_capacity(int layer, int64_t rows) {
  if (shared_) return;
  auto& segment = segments_[static_cast<size_t>(layer)];
  segment = nullptr;
  segment = own_segment(layer, rows);
  this->layer(layer).rows = segment->layer(0);
  version_ = unique_id();
}

void KvCache::lengthen(int64_t tokens) {
  for (int i = 0; i < layers(); ++i)
    if (hp_.has_rows(i)) layer(i).length += tokens;
}

void KvCache::rewind() {
  for (int i = 0; i < layers(); ++i) {
    layer(i).length = layer(i).prompt;
    if (states_) states_->rewind(i);
  }
  forget_masks();
}

void KvCache::forget_masks() {
  version_ = unique_id();
}

bool KvCache::has_room(int64_t tokens) const {
  for (int i = 0; i < layers(); ++i)
    if (hp_.has_rows(i) && layer(i).length + tokens > layer(i).rows.capacity()) return false;
  return true;
}

std::vector<int64_t> KvCache::grown_capacities(int64_t tokens) const {
  std::vector<int64_t> capacities;
  capacities.reserve(layers_.size());
  for (int i = 0; i < layers(); ++i) {
    const int64_t wanted = hp_.has_rows(i) ? layer(i).length + std::max(growth_, tokens) : 0;
    capacities.push_back(most_rows.empty() ? wanted : std::min(wanted, most_rows[static_cast<size_t>(i)]));
  }
  return capacities;
}

std::unique_ptr<KvSegment> KvCache::larger_segment(int64_t tokens) {
  if (!shared_) return nullptr;
  return pooled_segment(grown_capacities(tokens));
}

void KvCache::grow(int64_t tokens, std::unique_ptr<KvSegment> larger) {
  const auto capacities = grown_capacities(tokens);
  version_ = unique_id();  // first: layers that have moved stay so where a later one finds no memory
  if (larger) {
    std::vector<RowsCopy> copies;
    copies.reserve(layers_.size());
    for (int i = 0; i < layers(); ++i) copies.push_back({layer(i), larger->layer(i)});
    copy_layers(backends_, copies);
    segments_.front() = std::move(larger);
    for (int i = 0; i < layers(); ++i) layer(i).rows = segments_.front()->layer(i);
  } else {
    for (int i = 0; i < layers(); ++i) {
      auto next = own_segment(i, capacities[static_cast<size_t>(i)]);
      const RowsCopy copy{layer(i), next->layer(0)};
      copy_layers(backends_, std::span(&copy, 1));
      layer(i).rows = next->layer(0);
      segments_[static_cast<size_t>(i)] = std::move(next);
    }
  }
  growth_ *= 2;
}

}  // namespace windowkv
