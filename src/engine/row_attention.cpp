#include "engine/row_attention.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace windowkv {

namespace {

// A head's rows are cut into so many parts, which threads share, whatever their number.
constexpr int64_t kParts = 8;
// Rows that are not worth a part of their own.
constexpr int64_t kLeastRows = 64;

const float* query(const ggml_tensor* q, int64_t column, int64_t head) {
  return reinterpret_cast<const float*>(static_cast<const char*>(q->data) +
                                        static_cast<size_t>(head) * q->nb[1] +
                                        static_cast<size_t>(column) * q->nb[2]);
}

/// Of the parts of a query head: [d_head + 2] each, the sum of weighted V, the sum of weights, the highest
/// score.
float* partial(const ggml_tensor* t, int64_t part, int64_t head, int64_t column) {
  return reinterpret_cast<float*>(static_cast<char*>(t->data) + static_cast<size_t>(part) * t->nb[1] +
                                  static_cast<size_t>(head) * t->nb[2] +
                                  static_cast<size_t>(column) * t->nb[3]);
}

struct Run {
  const HostRows* k;
  const HostRows* v;
  RowRange range;
};

/// What a KV head reads, one run behind the other.
std::array<Run, 3> runs_of(const AttendedRows& rows, int64_t head) {
  const auto* chosen = rows.chosen;
  auto listed = [&](const std::vector<std::vector<int32_t>>& lists) -> RowRange {
    if (lists.empty()) return {};
    const auto& list = lists[lists.size() == 1 ? 0 : static_cast<size_t>(head)];
    return {list.data(), 0, static_cast<int64_t>(list.size())};
  };
  if (chosen == nullptr) {
    const int64_t begin = rows.begins.empty() ? 0 : rows.begins[static_cast<size_t>(head)];
    return {Run{&rows.k, &rows.v, {nullptr, begin, rows.length - begin}}, {}, {}};
  }
  return {Run{&chosen->k, &chosen->v, listed(chosen->stored)}, Run{&rows.k, &rows.v, listed(chosen->cached)},
          Run{&rows.k, &rows.v, {nullptr, chosen->newest, rows.length - chosen->newest}}};
}

/// dst [d_head + 2, kParts, n_head, columns] of src[0] = q.
void attend_parts(ggml_tensor* dst, int ith, int nth, void* userdata) {
  const auto& rows = *static_cast<const RowAttention*>(userdata);
  const auto* q = dst->src[0];
  const int64_t d = q->ne[0];
  const int64_t share = q->ne[1] / rows.n_head_kv;
  std::vector<AttentionState> states(static_cast<size_t>(share));
  const int64_t units = dst->ne[3] * rows.n_head_kv * kParts;
  for (int64_t unit = ith; unit < units; unit += nth) {
    const int64_t part = unit % kParts;
    const int64_t head = unit / kParts % rows.n_head_kv;
    const int64_t column = unit / kParts / rows.n_head_kv;
    const auto& c = rows.columns[static_cast<size_t>(column)];
    const auto runs = runs_of(c, head);
    int64_t all = 0;
    for (const auto& run : runs) all += run.range.count;
    const int64_t hidden = c.window > 0 ? std::max<int64_t>(0, all - c.window) : 0;
    const int64_t step = std::max(kLeastRows, (all - hidden + kParts - 1) / kParts);
    int64_t first = std::min(all, hidden + part * step);
    int64_t last = std::min(all, first + step);
    for (int64_t i = 0; i < share; ++i) {
      float* p = partial(dst, part, head * share + i, column);
      std::fill_n(p, d + 1, 0.0f);
      p[d + 1] = -INFINITY;
      states[static_cast<size_t>(i)] = {p, p + d, p + d + 1};
    }
    for (const auto& run : runs) {
      const auto [numbers, begin, count] = run.range;
      const int64_t from = std::clamp<int64_t>(first, 0, count);
      const int64_t to = std::clamp<int64_t>(last, 0, count);
      if (from < to)
        attend_rows(*run.k, *run.v, head, {numbers, begin + from, to - from}, query(q, column, head * share),
                    static_cast<int>(share), static_cast<int>(d), rows.logits, states.data());
      first -= count;
      last -= count;
    }
  }
}

/// dst [d_head·n_head, columns] of src[0], what attend_parts made.
void join_parts(ggml_tensor* dst, int ith, int nth, void* userdata) {
  const auto* sinks = static_cast<const RowAttention*>(userdata)->sinks;
  const auto* parts = dst->src[0];
  const int64_t d = parts->ne[0] - 2;
  const int64_t units = parts->ne[2] * parts->ne[3];
  for (int64_t unit = ith; unit < units; unit += nth) {
    const int64_t head = unit % parts->ne[2];
    const int64_t column = unit / parts->ne[2];
    auto* out =
        reinterpret_cast<float*>(static_cast<char*>(dst->data) + static_cast<size_t>(column) * dst->nb[1]) +
        head * d;
    float highest = -INFINITY;
    for (int64_t p = 0; p < kParts; ++p) highest = std::max(highest, partial(parts, p, head, column)[d + 1]);
    if (sinks != nullptr) highest = std::max(highest, sinks[head]);
    float weight = sinks != nullptr ? std::exp(sinks[head] - highest) : 0.0f;
    std::fill_n(out, d, 0.0f);
    for (int64_t p = 0; p < kParts; ++p) {
      const float* from = partial(parts, p, head, column);
      if (from[d] == 0) continue;
      const float factor = std::exp(from[d + 1] - highest);
      weight += factor * from[d];
      for (int64_t i = 0; i < d; ++i) out[i] += factor * from[i];
    }
    for (int64_t i = 0; i < d; ++i) out[i] /= weight;
  }
}

}  // namespace

ggml_tensor* attend_in_place(ggml_context* ctx, ggml_tensor* q, RowAttention& rows) {
  if (q->nb[0] != sizeof(float) || q->nb[1] != static_cast<size_t>(q->ne[0]) * sizeof(float))
    q = ggml_cont(ctx, q);
  auto* parts = ggml_custom_4d(ctx, GGML_TYPE_F32, q->ne[0] + 2, kParts, q->ne[1], q->ne[2], &q, 1,
                               attend_parts, GGML_N_TASKS_MAX, &rows);
  return ggml_custom_4d(ctx, GGML_TYPE_F32, q->ne[0] * q->ne[1], q->ne[2], 1, 1, &parts, 1, join_parts,
                        GGML_N_TASKS_MAX, &rows);
}

}  // namespace windowkv
