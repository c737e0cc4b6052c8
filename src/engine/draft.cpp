#include "engine/draft.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/layer_selection.h"
#include "engine/recall_copies.h"
#include "engine/sliding.h"
#include "windowkv/error.h"

namespace windowkv {

bool Draft::wanted(const HParams& hp, const Policy& policy, int64_t n) {
  return policy.draft() > 0 && decides_anywhere(*start_selector(hp, policy, n), hp.n_layer);
}

int64_t Draft::reserve_for(const HParams& hp, const Policy& policy, int64_t n, int64_t reserve) {
  return wanted(hp, policy, n) ? std::max<int64_t>(reserve, policy.draft()) : reserve;
}

std::unique_ptr<Draft> Draft::make(LoadedModel& m, const Policy& policy, int64_t n) {
  if (!wanted(m.hp, policy, n)) return nullptr;
  if (policy.recall() > 0)
    throw Error(fmt::format("{} drafts an answer and cannot choose again; leave recall off", policy.name()));
  if (!policy.again()) throw Error(fmt::format("{} does not say what chooses again", policy.name()));
  return std::unique_ptr<Draft>(new Draft(m, policy, n));
}

Draft::Draft(LoadedModel& m, const Policy& policy, int64_t n)
    : m_(m),
      n_(n),
      tokens_(policy.draft()),
      selector_(start_selector(m.hp, *policy.again(), n)),
      observed_(std::min(selector_->observation(), start_selector(m.hp, policy, n)->observation())),
      last_(*m.backends, m.hp),
      all_(*m.backends, m.hp, observed_ + tokens_) {}

int64_t Draft::block_bytes(const HParams& hp, int64_t n) {
  return static_cast<int64_t>(PrefixBlock::bytes(hp, KvTypes{}, n));
}

std::shared_ptr<PrefixBlock> Draft::make_block(const HParams& hp, int64_t n) {
  return std::make_shared<PrefixBlock>(hp, KvTypes{}, n,
                                       HostMemory::anonymous(static_cast<size_t>(block_bytes(hp, n))));
}

ggml_tensor* Draft::observed_of(ggml_context* ctx, int layer) const {
  return all_.columns(ctx, layer, 0, observed_);
}

void Draft::take() {
  all_.take(last_, observed_ + taken_++);
}

void Draft::choose(const PrefixBlock& block, const KvCache& cache) {
  const auto& hp = m_.hp;
  StandingGraph scoring(*m_.backends, all_scoring_nodes(hp));
  const auto settled = build_scorings(scoring.graph, m_, *selector_, [&](ggml_context* ctx, LayerView& view) {
    view.q = LastQueries::by_head(ctx, all_.columns(ctx, view.layer, 0, observed_ + taken_), hp.d_head);
    view.after_prompt = taken_;
    view.k = PrefixBlock::slice(ctx, block.k(view.layer), 0, n_);
  });
  scoring.scheduler.run(scoring.graph);
  const auto kept = choose_settled(settled, *selector_);
  RecallCopies(*m_.backends, hp, block, kept, n_).copy(cache, kept);
}

}  // namespace windowkv
