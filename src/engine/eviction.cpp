#include "engine/eviction.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "engine/layer_selection.h"
#include "engine/query_moments.h"
#include "engine/sliding.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

// Tokens that come before a layer with a sliding window drops the ones that it shows no more.
constexpr int64_t kBesideWindow = 64;

int64_t most_rows(const HParams& hp, int64_t total, int layer) {
  return hp.slides(layer) ? hp.attention_of(layer).window + kBesideWindow : total;
}

/// The most tokens that a layer which sees all keeps by it.
int64_t most_kept(const HParams& hp, const Selector& selector) {
  int64_t most = 0;
  for (int layer : hp.full_layers()) most = std::max(most, selector.capacity(layer));
  return most;
}

}  // namespace

int64_t Eviction::capacity(const HParams& hp, const Policy& policy, int layer, int64_t rows) {
  return policy.total() > 0 ? std::min(rows, most_rows(hp, policy.total(), layer)) : rows;
}

std::unique_ptr<Eviction> Eviction::make(LoadedModel& m, const Policy& policy, int64_t n) {
  const int64_t total = policy.total();
  if (total == 0) return nullptr;
  auto again = policy.again();
  if (!again) throw Error(fmt::format("{} does not say what chooses again", policy.name()));
  const auto first = start_selector(m.hp, policy, n);
  const auto later = start_selector(m.hp, *again, total);
  if (first->heads_differ() || later->heads_differ())
    throw Error(fmt::format("{} keeps different numbers of tokens by KV head and cannot keep to a total",
                            policy.name()));
  const int64_t observation = later->observation();
  const int64_t kept = std::max(most_kept(m.hp, *first), most_kept(m.hp, *later));
  if (m.hp.n_full_layers() > 0 && kept + std::max<int64_t>(1, observation) > total)
    throw Error(
        fmt::format("{} keeps up to {} tokens of a layer and observes {} more, which a total of {} has no "
                    "room for; use a "
                    "larger total or another policy",
                    policy.name(), kept, observation, total));
  return std::unique_ptr<Eviction>(new Eviction(m, std::move(again), total, observation));
}

Eviction::Eviction(LoadedModel& m, std::shared_ptr<const Policy> policy, int64_t total, int64_t observation)
    : m_(m),
      policy_(std::move(policy)),
      total_(total),
      observation_(observation),
      last_(*m.backends, m.hp),
      newest_(*m.backends, m.hp, std::max<int64_t>(1, observation)) {}

void Eviction::attach(KvCache& cache) {
  cache.most_rows.clear();
  for (int layer = 0; layer < m_.hp.n_layer; ++layer)
    cache.most_rows.push_back(windowkv::most_rows(m_.hp, total_, layer));
  if (observation_ > 0) cache.queries = &last_;
}

std::unique_ptr<Eviction> Eviction::fork(KvCache& copy) const {
  std::unique_ptr<Eviction> other(new Eviction(m_, policy_, total_, observation_));
  other->newest_.restore(newest_.save());
  other->taken_ = taken_;
  other->dropped_ = dropped_;
  other->attach(copy);
  return other;
}

bool Eviction::is_full(const KvCache& cache, int layer) const {
  return cache.layer(layer).length >= cache.most_rows[static_cast<size_t>(layer)];
}

bool Eviction::after_step(KvCache& cache, int64_t position) {
  bool soon = false;
  bool full = false;
  for (int layer = 0; layer < m_.hp.n_layer; ++layer) {
    soon = soon || (!m_.hp.slides(layer) && cache.layer(layer).length > total_ - observation_);
    full = full || is_full(cache, layer);
  }
  if (soon) newest_.take(last_, taken_++ % observation_);
  if (full) drop(cache, position);
  return full;
}

ggml_tensor* Eviction::queries_of(ggml_context* ctx, int layer) const {
  auto* all = newest_.of(layer);
  if (const int64_t oldest = taken_ % observation_; oldest > 0)
    all = ggml_concat(ctx, newest_.columns(ctx, layer, oldest, observation_ - oldest),
                      newest_.columns(ctx, layer, 0, oldest), 1);
  return all;
}

void Eviction::drop(KvCache& cache, int64_t position) {
  const auto& hp = m_.hp;
  const auto selector = start_selector(hp, *policy_, total_);
  const size_t nodes = all_scoring_nodes(hp);
  Graph graph(nodes);
  Scheduler scheduler(*m_.backends, nodes);
  const auto settled = build_scorings(
      graph, m_, *selector,
      [&](ggml_context* ctx, LayerView& view) {
        auto* queries = queries_of(ctx, view.layer);
        view.q = LastQueries::by_head(ctx, queries, hp.d_head);
        if (selector->query_moments()) {
          view.moments = build_moments(
              ctx, m_, view.layer, ggml_reshape_3d(ctx, queries, hp.d_head, hp.n_head, observation_),
              build_numbers(ctx, observation_, 1, position - observation_), /*skipped=*/0);
          view.moment_queries = observation_;
          add_rotation(ctx, m_, view, selector->ahead(), position);
        }
        view.k = KvRows::by_head(ctx, cache.layer(view.layer).rows.k(), hp.d_head, total_);
        view.v = KvRows::by_head(ctx, cache.layer(view.layer).rows.v(), hp.d_head, total_);
      },
      [&](int layer) { return is_full(cache, layer); });
  if (ggml_graph_n_nodes(graph.nodes()) > 0) scheduler.run(graph);
  const auto kept = choose_settled(settled, *selector);
  for (int layer = 0; layer < hp.n_layer; ++layer) {
    if (!is_full(cache, layer)) continue;
    auto& held = cache.layer(layer);
    auto stays = kept[static_cast<size_t>(layer)];
    if (hp.slides(layer)) {
      const int64_t window = hp.attention_of(layer).window;
      stays.assign(1, std::vector<int32_t>(static_cast<size_t>(window)));
      std::ranges::generate(stays.front(),
                            [row = static_cast<int32_t>(held.length - window)]() mutable { return row++; });
    }
    held.length = gather(scheduler, held.rows, stays, held.rows);
  }
  cache.forget_masks();
  dropped_ = true;
}

}  // namespace windowkv
