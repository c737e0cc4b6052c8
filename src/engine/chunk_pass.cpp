#include "engine/chunk_pass.h"

#include <algorithm>

#include "engine/attention.h"
#include "policy/observed_attention.h"

namespace windowkv {

ChunkPass::ChunkPass(LoadedModel& m, Scheduler& scheduler, Pack& pack, int64_t chunk, int64_t rows)
    : m_(m), scheduler_(scheduler), pack_(pack), chunk_(chunk), rows_(rows) {
  if (PrefillAttention::takes(*m.backends, m.hp)) attention_.emplace(*m.backends, m.hp, chunk_);
}

void ChunkPass::embed(int64_t first, std::span<const Token> tokens) {
  pack_.set_tokens(first, tokens);
  Graph graph(64);
  const auto count = static_cast<int64_t>(tokens.size());
  auto* ids = graph.input(GGML_TYPE_I32, count);
  auto* x = m_.family->embed(graph.ctx(), m_.hp, m_.weights, ids);
  graph.add(ggml_cpy(graph.ctx(), x, pack_.hidden_at(graph.ctx(), first, count)));
  scheduler_.allocate(graph);
  ggml_backend_tensor_set(ids, tokens.data(), 0, ggml_nbytes(ids));
  scheduler_.compute(graph);
}

void ChunkPass::go_to(int layer) {
  if (const int64_t moved = pack_.go_to(layer); moved > 0) scheduler_.add_copy(moved);
  if (const size_t device = m_.backends->device_of(layer);
      !attention_ && (layer == 0 || device != m_.backends->device_of(layer - 1)))
    masks_.clear();
  if (const int64_t window = m_.attention(layer).window; !attention_ && !masks_.contains(window))
    masks_.try_emplace(window, *m_.backends, rows_, chunk_, m_.backends->device_of(layer), window);
}

ggml_tensor* ChunkPass::finish_layer(ggml_context* ctx, int layer, int64_t first, int64_t count,
                                     ggml_tensor* attention) const {
  auto* x = pack_.hidden_at(ctx, first, count);
  Family::LayerTokens tokens;
  if (m_.hp.n_embd_layer > 0) {
    auto* ids = pack_.tokens_at(ctx, first, count);
    tokens = {m_.family->embed(ctx, m_.hp, m_.weights, ids),
              m_.family->embed_in_layer(ctx, m_.hp, m_.weights, layer, ids)};
  }
  return ggml_cpy(ctx, m_.family->finish_layer(ctx, m_.hp, m_.weights, layer, x, attention, tokens), x);
}

void ChunkPass::pass(Graph& graph, int layer, int64_t first, int64_t count, const Behind& behind) const {
  auto* ctx = graph.ctx();
  auto* x = pack_.hidden_at(ctx, first, count);
  const auto qkv =
      m_.family->attention_inputs(ctx, m_.hp, m_.weights, layer, x, pack_.positions_at(ctx, first, count),
                                  m_.hp.has_rows(layer) ? Family::kQkv : Family::kQ);
  if (m_.hp.has_rows(layer)) store_kv(graph, behind.rows, behind.end, qkv);
  if (behind.replayed != nullptr && m_.attention(layer).window == 0)  // nothing is chosen where there is one
    raise_maxima(graph, m_.hp, qkv.q, behind.rows, behind.end, *behind.replayed);
  auto* attention = attend(graph, layer, qkv.q, behind.rows, behind.end, 0, behind.begins);
  if (!behind.output) return;
  graph.add(finish_layer(ctx, layer, first, count, build_gated(ctx, attention, qkv.gate)));
}

void ChunkPass::recur(Graph& graph, int layer, int64_t first, int64_t count,
                      std::span<const Family::StateRun> runs) const {
  auto* ctx = graph.ctx();
  auto* x = pack_.hidden_at(ctx, first, count);
  auto* read = m_.family->recur(graph, m_.hp, m_.weights, layer, x, runs);
  graph.add(finish_layer(ctx, layer, first, count, read));
}

ggml_tensor* ChunkPass::attend(Graph& graph, int layer, ggml_tensor* q, const KvRows& rows, int64_t first,
                               int64_t column, std::span<const int64_t> begins) const {
  const auto how = m_.attention(layer);
  if (attention_) return attention_->build(graph, how, q, rows, first, column, begins);
  auto* ctx = graph.ctx();
  const int64_t count = q->ne[2];
  const int64_t shown = first_shown(first, how.window);
  return windowkv::attend(ctx, how, q, rows, shown, first + count,
                          masks_.at(how.window).of(ctx, first, count, shown));
}

void ChunkPass::add_received(Graph& graph, int layer, ggml_tensor* q, const KvRows& rows, int64_t first,
                             const ReceivedSum& received, ggml_tensor* attended) const {
  const auto how = m_.attention(layer);
  if (attention_) return attention_->add_received(graph, how, q, rows, first, received, attended);
  auto* ctx = graph.ctx();
  const int64_t keys = first + q->ne[2];
  const int64_t n_head_kv = rows.k()->ne[0] / q->ne[0];
  const int64_t share = q->ne[1] / n_head_kv;
  auto* some = received.columns(ctx, q, first);
  if (some == nullptr) return;
  some = ggml_cont(ctx, ggml_permute(ctx, some, 0, 2, 1, 3));
  auto* k = KvRows::by_head(ctx, rows.k(), q->ne[0], keys);
  auto* sums = received.sums;
  for (int64_t h = 0; h < n_head_kv; ++h) {
    auto* own = build_sum_over_queries(
        ctx,
        build_attention(ctx, some, k, {h, 1}, first + received.skipped(first), how.logits, received.stride));
    auto* held =
        ggml_view_2d(ctx, sums, keys, share, sums->nb[1], static_cast<size_t>(h * share) * sums->nb[1]);
    graph.add(ggml_cpy(ctx, ggml_add(ctx, held, own), held));
  }
}

std::vector<float> ChunkPass::logits(Graph& graph, ggml_tensor* x) const {
  auto* logits = graph.output(m_.family->logits(graph.ctx(), m_.hp, m_.weights, x));
  scheduler_.run(graph);
  std::vector<float> values(static_cast<size_t>(ggml_nelements(logits)));
  ggml_backend_tensor_get(logits, values.data(), 0, ggml_nbytes(logits));
  return values;
}

void ChunkPass::all_logits(
    const std::function<void(int64_t index, std::span<const float> logits)>& each) const {
  const auto vocab = static_cast<size_t>(m_.hp.n_vocab);
  for (int64_t first = 0; first < pack_.tokens(); first += kLogitColumns) {
    const int64_t count = std::min(kLogitColumns, pack_.tokens() - first);
    Graph graph(64);
    const auto values = logits(graph, pack_.hidden_at(graph.ctx(), first, count));
    for (int64_t i = 0; i < count; ++i)
      each(first + i, std::span(values).subspan(static_cast<size_t>(i) * vocab, vocab));
  }
}

}  // namespace windowkv
