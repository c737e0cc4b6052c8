#include "engine/prefill_attention.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "backend/causal_attention.h"

namespace windowkv {

namespace {

/// Queries' elements of a token in the layer that has most.
int64_t most_query_elements(const HParams& hp) {
  int64_t most = 0;
  for (int layer = 0; layer < std::max(1, hp.n_layer); ++layer) {
    const auto heads = hp.heads(layer);
    most = std::max(most, int64_t{heads.n_head} * heads.d_head);
  }
  return most;
}

/// What a node needs beside its tensors.
struct Attending {
  int64_t end;  ///< row of the first query's own key
  int n_head_kv;
  LogitScale logits;
  bool rounded;
  int64_t stride = 1;  ///< of queries
  int64_t window = 0;
  std::vector<int64_t> begins;
};

CausalQueries queries_of(const ggml_tensor* q, const Attending& how) {
  return {.q = static_cast<const float*>(q->data),
          .token_stride = q->nb[2] / sizeof(float),
          .head_stride = q->nb[1] / sizeof(float),
          .tokens = q->ne[2],
          .first = how.end,
          .stride = how.stride,
          .n_head = static_cast<int>(q->ne[1]),
          .n_head_kv = how.n_head_kv,
          .d_head = static_cast<int>(q->ne[0]),
          .logits = how.logits,
          .rounded = how.rounded};
}

/// Of rows [d_head·n_head_kv, tokens].
HostRows rows_of(const ggml_tensor* rows, int64_t d_head) {
  return {rows->type, static_cast<const char*>(rows->data), rows->nb[1], ggml_row_size(rows->type, d_head)};
}

/// dst [d_head·n_head, t] and src[4] = log sums [1, n_head, t] of src[1] = q [d_head, n_head, t], src[2] and
/// src[3]: rows of K and V, and where there are any src[5]: sinks.
void attend_chunk(ggml_tensor* dst, int ith, int nth, void* userdata) {
  const auto& how = *static_cast<const Attending*>(userdata);
  const auto* q = dst->src[1];
  const CausalRange range{
      .begins = how.begins,
      .window = how.window,
      .sinks = dst->src[5] != nullptr ? static_cast<const float*>(dst->src[5]->data) : nullptr};
  const CausalResults to{.out = static_cast<float*>(dst->data),
                         .out_stride = dst->nb[1] / sizeof(float),
                         .log_sums = static_cast<float*>(dst->src[4]->data),
                         .log_sums_stride = dst->src[4]->nb[2] / sizeof(float)};
  attend_causal(queries_of(q, how), rows_of(dst->src[2], q->ne[0]), rows_of(dst->src[3], q->ne[0]), range, to,
                ith, nth);
}

/// dst [tokens, n_head] += what src[1] = q gives to src[2], rows of K. src[3]: log sums of q's scores, or
/// null.
void sum_received(ggml_tensor* dst, int ith, int nth, void* userdata) {
  const auto* q = dst->src[1];
  LogSums known;
  if (const auto* log_sums = dst->src[3]; log_sums != nullptr)
    known = {static_cast<const float*>(log_sums->data), log_sums->nb[2] / sizeof(float)};
  add_causal_sums(queries_of(q, *static_cast<const Attending*>(userdata)), rows_of(dst->src[2], q->ne[0]),
                  known, static_cast<float*>(dst->data), dst->nb[1] / sizeof(float), ith, nth);
}

int n_head_kv_of(const KvRows& rows, const ggml_tensor* q) {
  return static_cast<int>(rows.k()->ne[0] / q->ne[0]);
}

}  // namespace

ggml_tensor* ReceivedSum::columns(ggml_context* ctx, ggml_tensor* x, int64_t first) const {
  const int64_t begin = skipped(first);
  if (begin >= x->ne[2]) return nullptr;
  return ggml_view_3d(ctx, x, x->ne[0], x->ne[1], (x->ne[2] - begin + stride - 1) / stride, x->nb[1],
                      x->nb[2] * static_cast<size_t>(stride), static_cast<size_t>(begin) * x->nb[2]);
}

bool PrefillAttention::takes(const Backends& backends, const HParams& hp) {
  if (!backends.cpu_alone() || !attends_causally()) return false;
  for (int layer = 0; layer < hp.n_layer; ++layer)
    if (!row_kernels_take(GGML_TYPE_F16, hp.heads(layer).d_head)) return false;
  return true;
}

PrefillAttention::PrefillAttention(const Backends& backends, const HParams& hp, int64_t chunk)
    : storage_(backends, "a chunk's attention", 2) {
  out_ = storage_.add(GGML_TYPE_F32, most_query_elements(hp), chunk);
  log_sums_ = storage_.add(GGML_TYPE_F32, hp.most_heads().n_head, chunk);
  storage_.allocate(/*clear=*/false);
}

ggml_tensor* PrefillAttention::build(Graph& graph, const LayerAttention& layer, ggml_tensor* q,
                                     const KvRows& rows, int64_t end, int64_t column,
                                     std::span<const int64_t> begins) const {
  auto* ctx = graph.ctx();
  // Side by side whatever the layer's sizes.
  const size_t token = ggml_row_size(GGML_TYPE_F32, q->ne[0] * q->ne[1]);
  auto* place =
      ggml_view_2d(ctx, out_, q->ne[0] * q->ne[1], q->ne[2], token, static_cast<size_t>(column) * token);
  auto* log_sums = ggml_view_3d(ctx, log_sums_, 1, q->ne[1], q->ne[2], log_sums_->nb[0], log_sums_->nb[1],
                                static_cast<size_t>(column) * log_sums_->nb[1]);
  std::vector<ggml_tensor*> from = {q, rows.k(), rows.v(), log_sums};
  if (layer.sinks != nullptr) from.push_back(layer.sinks);
  auto* how = graph.hold(Attending{.end = end,
                                   .n_head_kv = n_head_kv_of(rows, q),
                                   .logits = layer.logits,
                                   .rounded = layer.rounded,
                                   .window = layer.window,
                                   .begins = {begins.begin(), begins.end()}});
  return ggml_custom_inplace(ctx, place, from.data(), static_cast<int>(from.size()), attend_chunk,
                             GGML_N_TASKS_MAX, how);
}

ggml_tensor* PrefillAttention::log_sums(const LayerAttention& layer, ggml_tensor* attended) {
  return layer.sinks == nullptr && layer.window == 0 ? attended->src[4] : nullptr;
}

int64_t PrefillAttention::bytes(const HParams& hp, int64_t chunk) {
  return 4 * chunk * (most_query_elements(hp) + hp.most_heads().n_head);
}

void PrefillAttention::add_received(Graph& graph, const LayerAttention& layer, ggml_tensor* q,
                                    const KvRows& rows, int64_t end, const ReceivedSum& received,
                                    ggml_tensor* attended) const {
  auto* ctx = graph.ctx();
  auto* some = received.columns(ctx, q, end);
  if (some == nullptr) return;
  std::vector<ggml_tensor*> from = {some, rows.k()};
  if (attended != nullptr && layer.sinks == nullptr) {
    from.push_back(received.columns(ctx, attended->src[4], end));
    from.push_back(attended);  // which is what fills them
  }
  auto* how = graph.hold(Attending{.end = end + received.skipped(end),
                                   .n_head_kv = n_head_kv_of(rows, q),
                                   .logits = layer.logits,
                                   .rounded = layer.rounded,
                                   .stride = received.stride});
  graph.add(ggml_custom_inplace(ctx, received.sums, from.data(), static_cast<int>(from.size()), sum_received,
                                GGML_N_TASKS_MAX, how));
}

}  // namespace windowkv
