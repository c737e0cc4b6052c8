// DefensiveKV and Layer-DefensiveKV (Feng et al., arXiv 2510.13334, Algorithms 1 and 2): a token is worth the
// most that any query of the observation window, of any query head, gives it, at least the mean, times what
// its value can change, ‖W_O·v‖₁. What holds most of the attention stays in any case. KV heads of a layer, or
// of all layers, compete for the budget. Details that the paper leaves open are those of its code
// (github.com/FFY0/DefensiveKV); only the observation window is kept there by its score, and here always.
#include <ggml.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "policy/observed_attention.h"
#include "policy/policies.h"
#include "policy/value_norms.h"
#include "windowkv/token_selector.h"

namespace windowkv {

namespace {

constexpr int64_t kObservation = 32;
constexpr int64_t kPool = 5;
constexpr float kMass = 0.9f;  // of the attention, whose tokens stay in any case

/// What the scoring of a layer's candidates reads: attention [n, t, query heads] F32 of the observation
/// window.
struct Attention {
  const ggml_tensor* values;
  int64_t share;

  const float* row(int64_t t, int64_t head) const {
    return reinterpret_cast<const float*>(static_cast<const char*>(values->data) +
                                          static_cast<size_t>(t) * values->nb[1] +
                                          static_cast<size_t>(head) * values->nb[2]);
  }
};

/// Raises `most` to a query's attention, averaged over neighbours (beyond the ends they count as 0) and
/// scaled so that its sum stays.
void raise_to_pooled(const float* attention, std::vector<float>& pooled, std::vector<float>& most) {
  const auto count = static_cast<int64_t>(pooled.size());
  for (int64_t j = 0; j < count; ++j) {
    const int64_t first = std::max<int64_t>(0, j - kPool / 2);
    const int64_t last = std::min(count, j + kPool / 2 + 1);
    pooled[static_cast<size_t>(j)] =
        std::accumulate(attention + first, attention + last, 0.0f) / static_cast<float>(kPool);
  }
  const double before = std::accumulate(attention, attention + count, 0.0);
  const double after = std::accumulate(pooled.begin(), pooled.end(), 0.0);
  const auto factor = static_cast<float>(after > 0 ? before / after : 0);
  for (size_t j = 0; j < most.size(); ++j) most[j] = std::max(most[j], pooled[j] * factor);
}

/// The candidates with the most attention on average, as many as hold `mass` of it together.
std::vector<size_t> holding(const std::vector<float>& attention, float mass, int64_t most) {
  std::vector<size_t> order(attention.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return attention[a] > attention[b]; });
  const double all = std::accumulate(attention.begin(), attention.end(), 0.0);
  size_t count = 0;
  for (double sum = 0; count < order.size(); ++count)
    if ((sum += attention[order[count]] / all) >= mass) break;
  // One that is never reached counts none, as the code's argmax does.
  if (count == order.size()) count = 0;
  order.resize(std::min(count, static_cast<size_t>(std::max<int64_t>(0, most))));
  return order;
}

/// dst [candidates, KV heads] of src: attention, value norms [candidates, KV heads], and [1], how many tokens
/// a head may keep in any case.
void defensive_scores(ggml_tensor* dst, int ith, int /*nth*/, void*) {
  if (ith != 0) return;
  const int64_t heads = dst->ne[1];
  const Attention attention{dst->src[0], dst->src[0]->ne[2] / heads};
  const auto candidates = static_cast<size_t>(dst->ne[0]);
  const int64_t queries = attention.values->ne[1];
  const auto* norms = static_cast<const float*>(dst->src[1]->data);
  const auto always = static_cast<int64_t>(*static_cast<const float*>(dst->src[2]->data));
  auto column = [&](int64_t head) { return static_cast<float*>(dst->data) + head * dst->ne[0]; };

  double bias = 0;  // what the last candidates get of a query's attention, on average
  for (int64_t head = 0; head < attention.values->ne[2]; ++head)
    for (int64_t t = 0; t < queries; ++t) {
      const auto* row = attention.row(t, head);
      bias += std::accumulate(row + std::max<int64_t>(0, dst->ne[0] - queries), row + dst->ne[0], 0.0);
    }
  bias /= static_cast<double>(attention.values->ne[2] * queries);

  std::vector<std::vector<size_t>> stay;
  std::vector<float> pooled(candidates);
  for (int64_t head = 0; head < heads; ++head) {
    std::vector<float> most(candidates, 0.0f), mean(candidates, 0.0f);
    for (int64_t i = head * attention.share; i < (head + 1) * attention.share; ++i)
      for (int64_t t = 0; t < queries; ++t) {
        const auto* row = attention.row(t, i);
        for (size_t j = 0; j < candidates; ++j) mean[j] += row[j];
        raise_to_pooled(row, pooled, most);
      }
    const auto least =
        static_cast<float>(std::accumulate(most.begin(), most.end(), 0.0) / static_cast<double>(candidates));
    for (size_t j = 0; j < candidates; ++j) {
      float all = 0;
      for (int64_t other = 0; other < heads; ++other)
        all += norms[static_cast<size_t>(other) * candidates + j];
      column(head)[j] = std::max(most[j], least) * norms[static_cast<size_t>(head) * candidates + j] / all;
    }
    stay.push_back(holding(mean, kMass - static_cast<float>(bias), always));
  }
  const float highest = *std::max_element(column(0), column(heads));
  for (int64_t head = 0; head < heads; ++head)
    for (const size_t j : stay[static_cast<size_t>(head)]) column(head)[j] = highest;
}

template <TokenSelector::Shared shared>
class DefensiveKvSelector final : public TokenSelector {
 public:
  DefensiveKvSelector(const PromptShape& prompt, int64_t budget)
      : TokenSelector(prompt, {.budgets = flat_budgets(prompt.n_layer, budget),
                               .recent = kObservation,
                               .observation = kObservation,
                               .shared = shared}) {}
  bool chooses_again() const override { return false; }

 protected:
  ggml_tensor* build_scores(ggml_context* ctx, const LayerView& view) const override {
    const int64_t past = view.k->ne[1] - view.q->ne[1];
    ggml_tensor* attention = nullptr;
    for (const auto& heads : heads_at_once(view)) {
      auto* part = build_attention(ctx, view.q, view.k, heads, past, logits_of(view));
      attention = attention != nullptr ? ggml_concat(ctx, attention, part, 2) : part;
    }
    // As the code has it: the budget's part of the candidates, less the observation window.
    const int64_t budget = chosen(view.layer) + recent();
    const auto always =
        static_cast<float>(std::max<int64_t>(0, candidates() * budget / prompt().n - recent()));
    std::vector<ggml_tensor*> args = {attention, build_value_norms(ctx, view, candidates()),
                                      ggml_arange(ctx, always, always + 1, 2)};
    return ggml_custom_4d(ctx, GGML_TYPE_F32, candidates(), view.k->ne[2], 1, 1, args.data(),
                          static_cast<int>(args.size()), defensive_scores, 1, nullptr);
  }
};

}  // namespace

std::unique_ptr<Policy> make_defensivekv(const PolicyOptions& options) {
  return std::make_unique<BudgetedPolicy<DefensiveKvSelector<TokenSelector::Shared::kHeads>>>("defensivekv",
                                                                                              options.budget);
}

std::unique_ptr<Policy> make_layer_defensivekv(const PolicyOptions& options) {
  return std::make_unique<BudgetedPolicy<DefensiveKvSelector<TokenSelector::Shared::kAll>>>(
      "layer-defensivekv", options.budget);
}

}  // namespace windowkv
