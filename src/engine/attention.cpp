#include "engine/attention.h"

#include <algorithm>

namespace windowkv {

namespace {

/// q [d_head, t, n_head, s], k and v [d_head, count, n_head_kv, s] → [d_head·n_head, t·s].
ggml_tensor* flash_attention(ggml_context* ctx, const LayerAttention& layer, ggml_tensor* q, ggml_tensor* k,
                             ggml_tensor* v, ggml_tensor* mask) {
  auto* out = ggml_flash_attn_ext(ctx, q, k, v, mask, layer.logits.scale, 0.0f, layer.logits.softcap);
  ggml_flash_attn_ext_add_sinks(out, layer.sinks);
  ggml_prec_set_acc(out, GGML_PREC_F32);
  return ggml_reshape_2d(ctx, out, q->ne[0] * q->ne[2], q->ne[1] * q->ne[3]);
}

}  // namespace

void store_kv(Graph& graph, const KvRows& rows, int64_t first, const Family::Qkv& qkv) {
  auto* ctx = graph.ctx();
  const int64_t t = qkv.k->ne[2];
  ggml_tensor* numbers = nullptr;
  // By number where they are quantized: rows of few blocks begin at addresses that Vulkan's copy takes for
  // others.
  if (ggml_is_quantized(rows.k()->type) || ggml_is_quantized(rows.v()->type))
    numbers = build_numbers(ctx, t, 1, first);
  for (auto [from, to] : {std::pair{qkv.k, rows.k()}, {qkv.v, rows.v()}}) {
    from = ggml_reshape_2d(ctx, from, to->ne[0], t);
    graph.add(ggml_is_quantized(to->type) ? ggml_set_rows(ctx, to, from, numbers)
                                          : ggml_cpy(ctx, from, KvRows::slice(ctx, to, first, t)));
  }
}

int64_t first_shown(int64_t first, int64_t window) {
  constexpr int64_t kStep = 64;
  return window > 0 ? std::max<int64_t>(0, first + 1 - window) / kStep * kStep : 0;
}

ggml_tensor* attend(ggml_context* ctx, const LayerAttention& layer, ggml_tensor* q, const KvRows& rows,
                    int64_t first, int64_t end, ggml_tensor* mask) {
  auto by_head = [&](ggml_tensor* all) {
    return KvRows::by_head(ctx, first > 0 ? KvRows::slice(ctx, all, first, end - first) : all, q->ne[0],
                           end - first);
  };
  return flash_attention(ctx, layer, ggml_permute(ctx, q, 0, 2, 1, 3), by_head(rows.k()), by_head(rows.v()),
                         mask);
}

ggml_tensor* token_columns(ggml_context* ctx, ggml_tensor* x, int64_t first, int64_t count) {
  if (first == 0 && count == x->ne[2]) return x;
  return ggml_view_3d(ctx, x, x->ne[0], x->ne[1], count, x->nb[1], x->nb[2],
                      static_cast<size_t>(first) * x->nb[2]);
}

ggml_tensor* join_columns(ggml_context* ctx, std::vector<ggml_tensor*> parts) {
  // In pairs, so that no column is copied more than log2(parts) times.
  for (; parts.size() > 1; parts.resize((parts.size() + 1) / 2))
    for (size_t i = 0; i < parts.size(); i += 2)
      parts[i / 2] = i + 1 < parts.size() ? ggml_concat(ctx, parts[i], parts[i + 1], 1) : parts[i];
  return parts.front();
}

namespace {

/// attend() where KV heads begin at different rows: each a stack of its own, since no device takes a mask for
/// each head.
ggml_tensor* attend_by_head(ggml_context* ctx, const LayerAttention& layer, ggml_tensor* q,
                            const KvStack& stack, ggml_tensor* mask) {
  const int64_t d_head = q->ne[0];
  const int64_t heads = stack.all.k->ne[0] / d_head;
  const int64_t share = q->ne[1] / heads;
  auto* queries = ggml_reshape_4d(ctx, q, d_head, 1, share, heads);
  auto part = [&](LayerAttention how, int64_t first, int64_t count) {
    auto rows_of = [&](ggml_tensor* rows) {
      const size_t head = ggml_row_size(rows->type, d_head);
      return ggml_view_4d(ctx, rows, d_head, stack.visible, 1, count, rows->nb[1], rows->nb[1], head,
                          static_cast<size_t>(stack.first) * rows->nb[1] + static_cast<size_t>(first) * head);
    };
    auto from = [&](ggml_tensor* t) {
      return ggml_view_4d(ctx, t, t->ne[0], t->ne[1], t->ne[2], count, t->nb[1], t->nb[2], t->nb[3],
                          static_cast<size_t>(first) * t->nb[3]);
    };
    if (how.sinks != nullptr)
      how.sinks = ggml_view_1d(ctx, how.sinks, share, static_cast<size_t>(first * share) * how.sinks->nb[0]);
    auto* out =
        flash_attention(ctx, how, from(queries), rows_of(stack.all.k), rows_of(stack.all.v), from(mask));
    return ggml_reshape_2d(ctx, out, ggml_nelements(out), 1);
  };
  if (layer.sinks == nullptr) return part(layer, 0, heads);
  ggml_tensor* all = nullptr;
  for (int64_t head = 0; head < heads; ++head) {
    auto* one = part(layer, head, 1);
    all = all != nullptr ? ggml_concat(ctx, all, one, 0) : one;
  }
  return all;
}

}  // namespace

ggml_tensor* attend(ggml_context* ctx, const LayerAttention& layer, ggml_tensor* q, const KvStack& stack,
                    ggml_tensor* mask) {
  if (stack.by_head) return attend_by_head(ctx, layer, q, stack, mask);
  const int64_t d_head = q->ne[0];
  auto stacked = [&](ggml_tensor* rows) {
    return ggml_view_4d(ctx, rows, d_head, stack.visible, rows->ne[0] / d_head, stack.caches, rows->nb[1],
                        ggml_row_size(rows->type, d_head), static_cast<size_t>(stack.distance) * rows->nb[1],
                        static_cast<size_t>(stack.first) * rows->nb[1]);
  };
  return flash_attention(ctx, layer, ggml_reshape_4d(ctx, q, d_head, 1, q->ne[1], stack.caches),
                         stacked(stack.all.k), stacked(stack.all.v), mask);
}

}  // namespace windowkv
