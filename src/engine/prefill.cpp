// Layer-major prefill: all of the prompt through one layer, then selection, then the next layer. One layer's
// full K and V are held at a time, in a scratch that every layer reuses.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "engine/attention.h"
#include "engine/layer_selection.h"
#include "engine/memory_plan.h"
#include "engine/product_attention.h"
#include "engine/prompt_state.h"
#include "engine/state.h"
#include "policy/observed_attention.h"
#include "support/clock.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

/// One prefill under way.
class Prefill {
 public:
  Prefill(LoadedModel& m, Scheduler& scheduler, int64_t chunk, std::span<const Token> prompt,
          std::span<Target> targets, const PrefillOptions& options)
      : m_(m),
        scheduler_(scheduler),
        n_(static_cast<int64_t>(prompt.size())),
        chunk_(std::min(chunk, n_)),
        tokens_(prompt),
        targets_(targets),
        options_(options),
        in_flight_(most_in_flight(targets, m.hp.n_layer)),
        prompt_(*m.backends, m.hp, n_, most_observed(targets), in_flight_, any_accumulates(targets)),
        steps_((n_ + chunk_ - 1) / chunk_ * m.hp.n_layer) {
    if (m.backends->blas() != nullptr) products_.emplace(*m.backends, m.hp, chunk_);
  }

  /// Returns the last position's logits.
  std::vector<float> run() {
    for_chunks([&](int64_t first, int64_t count) { embed(first, count); });
    std::vector<float> logits;
    const int last = m_.hp.n_layer - 1;
    for (int layer = 0; layer <= last; ++layer) {
      if (const int64_t moved = prompt_.go_to(layer); moved > 0) scheduler_.add_copy(moved);
      if (const size_t device = m_.backends->device_of(layer);
          !products_ && (layer == 0 || device != m_.backends->device_of(layer - 1)))
        mask_.emplace(*m_.backends, n_, chunk_, device);
      const bool decides = std::any_of(targets_.begin(), targets_.end(),
                                       [&](const Target& t) { return t.selector->decides(layer); });
      if (decides && prompt_.observation() > 0) keep_observed(layer);
      if (prompt_.accumulated != nullptr) prompt_.forget_accumulated();
      const KvRows& rows = rows_for(layer);
      const bool advance = layer < last || options_.all_logits;
      for_chunks([&](int64_t first, int64_t count) { run_chunk(layer, rows, first, count, advance); });
      if (layer == last) logits = options_.all_logits ? report_all() : finish(rows);
      prompt_.wait();
      for (auto& target : targets_) {
        const auto start = Clock::now();
        settle_layers(
            m_, scheduler_, prompt_, layer, [this](int l) -> const KvRows& { return rows_for(l); }, target);
        target.selection_ms += ms_since(start);
      }
    }
    return logits;
  }

 private:
  static int64_t most_observed(std::span<const Target> targets) {
    int64_t most = 0;
    for (const auto& target : targets) most = std::max(most, target.selector->observation());
    return most;
  }

  static int most_in_flight(std::span<const Target> targets, int n_layer) {
    int most = 1;
    for (const auto& target : targets) most = std::max(most, layers_in_flight(*target.selector, n_layer));
    return most;
  }

  static bool any_accumulates(std::span<const Target> targets) {
    return std::any_of(targets.begin(), targets.end(),
                       [](const Target& t) { return t.selector->accumulates(); });
  }

  /// Where the layer's K and V of all tokens go: straight into the cache where there is one and it keeps
  /// everything as it is, else into the scratch, whose places the layers use in turn.
  const KvRows& rows_for(int layer) {
    if (targets_.size() == 1 && targets_[0].selector->capacity(layer) >= n_ &&
        targets_[0].cache->types() == KvTypes{})
      return targets_[0].cache->layer(layer).rows;
    auto& place = scratch_[static_cast<size_t>(layer % in_flight_)];
    const size_t device = m_.backends->device_of(layer);
    if (place.device != device) place.rows.reset();
    if (!place.rows) {
      std::vector<int64_t> rows(m_.backends->device_count(), 0);
      rows[device] = n_;
      place = {std::make_unique<KvSegment>(std::make_shared<KvMemory>(*m_.backends, m_.hp, KvTypes{}, rows),
                                           std::vector{n_}, std::vector{device}, targets_[0].cache->meter()),
               device};
    }
    return place.rows->layer(0);
  }

  /// K and V of a layer in full, on the device of the layer that has it now.
  struct Scratch {
    std::unique_ptr<KvSegment> rows;
    size_t device = 0;
  };

  template <typename F>
  void for_chunks(F&& f) {
    for (int64_t first = 0; first < n_; first += chunk_) {
      if (options_.cancelled && options_.cancelled()) throw Cancelled();
      f(first, std::min(chunk_, n_ - first));
    }
  }

  void embed(int64_t first, int64_t count) {
    Graph graph(64);
    auto* ids = graph.input(GGML_TYPE_I32, count);
    auto* x = m_.family->embed(graph.ctx(), m_.hp, m_.weights, ids);
    graph.add(ggml_cpy(graph.ctx(), x, prompt_.hidden_at(graph.ctx(), first, count)));
    scheduler_.allocate(graph);
    ggml_backend_tensor_set(ids, tokens_.data() + first, 0, ggml_nbytes(ids));
    scheduler_.compute(graph);
  }

  /// Chunks overwrite the layer's input as they pass; the selection still needs the end of it.
  void keep_observed(int layer) {
    Graph graph(16);
    auto* ctx = graph.ctx();
    const int64_t count = prompt_.observation();
    graph.add(
        ggml_cpy(ctx, prompt_.hidden_at(ctx, n_ - count, count), prompt_.observed_last(ctx, layer, count)));
    scheduler_.run(graph);
  }

  void run_chunk(int layer, const KvRows& rows, int64_t first, int64_t count, bool advance) {
    Graph graph(chunk_nodes(m_, chunk_));
    auto* ctx = graph.ctx();
    auto* x = prompt_.hidden_at(ctx, first, count);
    const bool queries = advance || prompt_.accumulated != nullptr;
    auto qkv =
        m_.family->attention_inputs(ctx, m_.hp, m_.weights, layer, x, prompt_.positions_at(ctx, first, count),
                                    queries ? Family::kQkv : Family::kKv);
    store_kv(graph, rows, first, qkv);
    if (prompt_.accumulated != nullptr) accumulate(graph, rows, first, qkv.q);
    if (advance) {
      auto* out = products_
                      ? products_->build(graph, qkv.q, rows, prompt_.positions_at(ctx, 0, first + count))
                      : attend(ctx, m_.hp, qkv.q, rows, first + count, mask_->view(ctx, first, count));
      graph.add(ggml_cpy(ctx, m_.family->finish_layer(ctx, m_.hp, m_.weights, layer, x, out), x));
    }
    scheduler_.run(graph);
    if (options_.progress) options_.progress(++done_, steps_);
  }

  /// Adds the attention of a chunk's queries to what each token has received, for policies that look at all
  /// queries.
  void accumulate(Graph& graph, const KvRows& rows, int64_t first, ggml_tensor* chunk_q) {
    auto* ctx = graph.ctx();
    const int64_t keys = first + chunk_q->ne[2];
    const int64_t share = m_.hp.n_head / m_.hp.n_head_kv;
    auto* q = ggml_cont(ctx, ggml_permute(ctx, chunk_q, 0, 2, 1, 3));
    auto* k = KvRows::by_head(ctx, rows.k(), m_.hp, keys);
    auto* sums = prompt_.accumulated;
    for (int64_t h = 0; h < m_.hp.n_head_kv; ++h) {
      auto* received =
          build_sum_over_queries(ctx, build_attention(ctx, q, k, h, first, m_.hp.attention_scale));
      auto* held =
          ggml_view_2d(ctx, sums, keys, share, sums->nb[1], static_cast<size_t>(h * share) * sums->nb[1]);
      graph.add(ggml_cpy(ctx, ggml_add(ctx, held, received), held));
    }
  }

  /// The last layer's attention and feed-forward for the last position only.
  std::vector<float> finish(const KvRows& rows) {
    Graph graph(256);
    auto* ctx = graph.ctx();
    const int layer = m_.hp.n_layer - 1;
    auto* x = prompt_.hidden_at(ctx, n_ - 1, 1);
    auto qkv = m_.family->attention_inputs(ctx, m_.hp, m_.weights, layer, x,
                                           prompt_.positions_at(ctx, n_ - 1, 1), Family::kQ);
    auto* out = attend(ctx, m_.hp, qkv.q, rows, n_, nullptr);
    x = m_.family->finish_layer(ctx, m_.hp, m_.weights, layer, x, out);
    return read_logits(graph, x);
  }

  std::vector<float> read_logits(Graph& graph, ggml_tensor* x) {
    auto* logits = graph.output(m_.family->logits(graph.ctx(), m_.hp, m_.weights, x));
    scheduler_.run(graph);
    std::vector<float> values(static_cast<size_t>(ggml_nelements(logits)));
    ggml_backend_tensor_get(logits, values.data(), 0, ggml_nbytes(logits));
    return values;
  }

  std::vector<float> report_all() {
    std::vector<float> last;
    const auto vocab = static_cast<size_t>(m_.hp.n_vocab);
    for_chunks([&](int64_t first, int64_t count) {
      Graph graph(64);
      auto values = read_logits(graph, prompt_.hidden_at(graph.ctx(), first, count));
      for (int64_t i = 0; i < count; ++i)
        options_.all_logits(first + i, std::span(values).subspan(static_cast<size_t>(i) * vocab, vocab));
      last.assign(values.end() - static_cast<std::ptrdiff_t>(vocab), values.end());
    });
    return last;
  }

  LoadedModel& m_;
  Scheduler& scheduler_;
  int64_t n_;
  int64_t chunk_;
  std::span<const Token> tokens_;
  std::span<Target> targets_;
  const PrefillOptions& options_;
  int in_flight_;  ///< layers whose K and V are in full at once
  Prompt prompt_;
  /// One of the two: how chunks attend.
  std::optional<ProductAttention> products_;
  std::optional<CausalMask> mask_;  ///< on the device of the layer that is computed
  std::vector<Scratch> scratch_{static_cast<size_t>(in_flight_)};
  int64_t steps_;
  int64_t done_ = 0;
};

std::string mib(int64_t bytes) {
  return fmt::format("{:.0f} MiB", std::ceil(static_cast<double>(bytes) / (1 << 20)));
}

}  // namespace

std::span<const float> Engine::prefill(Sequence& sequence, std::span<const Token> prompt,
                                       const Policy& policy, const PrefillOptions& options) {
  const Policy* only = &policy;
  return prefill(std::span(&sequence, 1), prompt, std::span(&only, 1), options);
}

std::span<const float> Engine::prefill(std::span<Sequence> sequences, std::span<const Token> prompt,
                                       std::span<const Policy* const> policies,
                                       const PrefillOptions& options) {
  auto& m = state_->m;
  const auto n = static_cast<int64_t>(prompt.size());
  if (sequences.empty() || sequences.size() != policies.size())
    throw Error(fmt::format("{} sequences for {} policies", sequences.size(), policies.size()));
  if (n == 0) throw Error("the prompt is empty");
  for (auto token : prompt)
    if (token < 0 || token >= m.hp.n_vocab)
      throw Error(fmt::format("token id {} is outside the vocabulary of {}", token, m.hp.n_vocab));
  if (options.reserve < 0 || options.reserve > INT32_MAX)
    throw Error(fmt::format("room for {} generated tokens; it must be 0 to {}", options.reserve, INT32_MAX));
  if (n > INT32_MAX) throw Error("a prompt of over 2^31 tokens");
  for (size_t device = 0; device < m.backends->device_count(); ++device) {
    const auto& run = m.backends->layer_runs()[device];
    if (run.count() == 0) continue;
    MemoryPlan memory;
    for (const auto* policy : policies) memory.add(state_->plan(run, n, *policy, options.reserve));
    const int64_t available = m.backends->free_memory(device);
    const int64_t set_aside = options.pool.memory() ? memory.kv_kept + memory.kv_reserve : 0;
    if (available >= 0 && memory.total() - set_aside > available)
      throw Error(fmt::format(
          "a prompt of {} tokens needs {} (KV cache {}, hidden states {}, the rest {}) and {} are free{}; "
          "use a shorter prompt or a smaller --kv-budget",
          n, mib(memory.total()), mib(memory.peak_kv()), mib(memory.hidden),
          mib(memory.mask + memory.compute), mib(available), place_text(*m.backends, device)));
  }

  const auto start = Clock::now();
  std::vector<std::unique_ptr<Selector>> selectors;
  std::vector<Sequence> next(policies.size());
  std::vector<Target> targets;
  for (size_t i = 0; i < policies.size(); ++i) {
    selectors.push_back(policies[i]->start(prompt_shape(m.hp, n)));
    std::vector<int64_t> capacities;
    capacities.reserve(static_cast<size_t>(m.hp.n_layer));
    for (int layer = 0; layer < m.hp.n_layer; ++layer)
      capacities.push_back(selectors[i]->capacity(layer) + options.reserve);
    next[i].cache =
        std::make_unique<KvCache>(*m.backends, m.hp, state_->options.kv, capacities, options.pool.memory());
    targets.push_back({selectors[i].get(), next[i].cache.get()});
  }
  state_->logits =
      Prefill(m, state_->prefill_scheduler, state_->options.chunk, prompt, targets, options).run();
  const double total = ms_since(start);

  for (size_t i = 0; i < policies.size(); ++i) {
    auto& sequence = next[i];
    sequence.prompt_tokens = sequence.position = n;
    sequence.timing = {total, targets[i].selection_ms};
    sequence.groups = selectors[i]->groups();
    sequence.kv_types = state_->options.kv;
    for (int layer = 0; layer < m.hp.n_layer; ++layer) {
      sequence.kept.push_back(sequence.cache->layer(layer).length);
      sequence.bytes.kept += sequence.kept.back() * kv_token_bytes(m.hp, state_->options.kv);
    }
    sequence.bytes.full = n * m.hp.n_layer * m.hp.kv_layer_bytes_per_token();
    sequence.bytes.peak = sequence.cache->meter().peak();
  }
  std::move(next.begin(), next.end(), sequences.begin());
  return state_->logits;
}

}  // namespace windowkv
