#include "engine/recall.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "engine/sliding.h"
#include "policy/policies.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

// Generated tokens join those that are chosen among in steps of this many, each of which builds a graph.
constexpr int64_t kJoining = 64;

}  // namespace

bool Recall::in_place(const LoadedModel& m) {
  if (!m.backends->cpu_alone()) return false;
  for (int layer = 0; layer < m.hp.n_layer; ++layer)
    if (!row_kernels_take(GGML_TYPE_F16, m.hp.heads(layer).d_head)) return false;
  return true;
}

bool Recall::wanted(const LoadedModel& m, const Policy& policy, int64_t n) {
  if (policy.recall() == 0) return false;
  const auto selector = start_selector(m.hp, policy, n);
  check_recalls(*selector, policy.name());
  if (selector->heads_differ() && !in_place(m))
    throw Error(fmt::format(
        "{} keeps different numbers of tokens by head and can choose again on the CPU only", policy.name()));
  return selector->observation() > 0 && decides_anywhere(*selector, m.hp.n_layer);
}

std::unique_ptr<Recall> Recall::make(LoadedModel& m, const Policy& policy, int64_t n) {
  if (!wanted(m, policy, n)) return nullptr;
  auto again = policy.again();
  if (!again) throw Error(fmt::format("{} does not say what chooses again", policy.name()));
  return std::unique_ptr<Recall>(new Recall(m, std::move(again), n, policy.recall()));
}

Recall::Recall(LoadedModel& m, std::shared_ptr<const Policy> policy, int64_t n, int every)
    : m_(m),
      policy_(std::move(policy)),
      n_(n),
      in_block_(n),
      among_(n),
      every_(every),
      selector_(start_selector(m.hp, *policy_, n)),
      queries_(*m.backends, m.hp),
      first_(static_cast<size_t>(m.hp.n_layer)) {}

void Recall::attach(std::shared_ptr<const PrefixBlock> block, int64_t in_block, KvCache& cache) {
  block_ = std::move(block);
  in_block_ = in_block;
  first_queries_ = queries_.save();
  connect(cache);
  if (!copies_) use(cache, first_);
}

void Recall::connect(KvCache& cache) {
  cache.queries = &queries_;
  if (!in_place(m_)) {
    copies_ = std::make_unique<RecallCopies>(*m_.backends, m_.hp, *block_, first_, n_);
    return;
  }
  if (rows_.empty())
    for (int layer = 0; layer < m_.hp.n_layer; ++layer) {
      auto& rows = rows_.emplace_back();
      if (!m_.hp.has_rows(layer)) continue;
      rows.k = HostRows::of(block_->k(layer));
      rows.v = HostRows::of(block_->v(layer));
    }
  cache.chosen = &rows_;
}

std::unique_ptr<Recall> Recall::fork(KvCache& copy) const {
  std::unique_ptr<Recall> other(new Recall(m_, policy_, n_, every_));
  other->in_block_ = in_block_;
  other->among_ = among_;
  other->selector_ = start_selector(m_.hp, *policy_, among_);
  other->queries_.restore(queries_.save());
  other->first_ = first_;
  other->first_queries_ = first_queries_;
  other->block_ = block_;
  other->rows_ = rows_;
  other->since_ = since_;
  other->chosen_ = chosen_;
  other->rewound_ = rewound_;
  other->connect(copy);
  return other;
}

void Recall::rewind() {
  queries_.restore(first_queries_);
  since_ = 0;
  rewound_ = true;
}

void Recall::before_step(const KvCache& cache) {
  if (!rewound_) return;
  if (among_ != n_) {
    among_ = n_;
    selector_ = start_selector(m_.hp, *policy_, n_);
    scoring_.reset();
  }
  if (chosen_) use(cache, first_);
  rewound_ = chosen_ = false;
}

bool Recall::after_step(const KvCache& cache) {
  if (++since_ < every_) return false;
  since_ = 0;
  choose(cache);
  chosen_ = true;
  return true;
}

void Recall::build_scoring(const KvCache& cache) {
  const auto& hp = m_.hp;
  const size_t nodes = all_scoring_nodes(hp);
  if (!scoring_ || scoring_->scheduler.max_nodes() < nodes)
    scoring_ = std::make_unique<StandingGraph>(*m_.backends, nodes);
  else
    scoring_->graph = Graph(nodes);
  auto& graph = scoring_->graph;
  settled_ = build_scorings(graph, m_, *selector_, [&](ggml_context* ctx, LayerView& view) {
    view.q = ggml_reshape_3d(ctx, queries_.of(view.layer), hp.d_head, 1, hp.n_head);
    view.k = PrefixBlock::slice(ctx, block_->k(view.layer), 0, in_block_);
    if (among_ > in_block_)
      view.k_after = KvRows::by_head(ctx, cache.layer(view.layer).rows.k(), hp.d_head, among_ - in_block_);
    view.after_prompt = 1;
  });
  scoring_->scheduler.allocate(graph);
  scores_ = cache.version();
}

void Recall::choose(const KvCache& cache) {
  const int with_rows = m_.hp.full_layers().front();
  const int64_t generated = in_block_ + cache.layer(with_rows).length - n_;  // in place
  if (!copies_ && generated >= among_ - n_ + kJoining) {
    among_ = n_ + generated / kJoining * kJoining;
    selector_ = start_selector(m_.hp, *policy_, among_);
    build_scoring(cache);
  }
  if (!scoring_ || (among_ > in_block_ && scores_ != cache.version())) build_scoring(cache);
  scoring_->scheduler.compute(scoring_->graph);
  selector_->restart();
  use(cache, choose_settled(settled_, *selector_));
}

void Recall::use(const KvCache& cache, std::vector<KeptTokens> kept) {
  if (copies_) return copies_->copy(cache, std::move(kept));
  for (size_t layer = 0; layer < kept.size(); ++layer) {
    auto& rows = rows_[layer];
    rows.stored = std::move(kept[layer]);
    rows.cached.resize(rows.stored.size());
    rows.newest = among_ - in_block_;
    for (size_t h = 0; h < rows.stored.size(); ++h) {
      const auto behind = std::ranges::lower_bound(rows.stored[h], static_cast<int32_t>(in_block_));
      rows.cached[h].assign(behind, rows.stored[h].end());
      for (auto& row : rows.cached[h]) row -= static_cast<int32_t>(in_block_);
      rows.stored[h].erase(behind, rows.stored[h].end());
    }
  }
}

}  // namespace windowkv
