#include "policy/top_scores.h"

#include <fmt/format.h>
#include <ggml.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "windowkv/error.h"

namespace windowkv {

namespace {

// Above what attention, at most the number of queries, times the norm of a value can come to.
constexpr float kRaise = 1e12f;

/// Bits that compare as the numbers do.
uint32_t ordered(float x) {
  const auto bits = std::bit_cast<uint32_t>(x + 0.0f);  // -0 is 0
  return bits ^ (bits >> 31 != 0 ? ~uint32_t{0} : uint32_t{1} << 31);
}

/// The keep-th highest of `scores` as `ordered` has it, and how many of those equal to it are among the
/// highest `keep`.
struct Threshold {
  uint32_t score;
  int64_t room;
};

/// By the leading bits first: sorting all of the scores, however partially, takes four times as long.
Threshold threshold_of(std::span<const float> scores, int64_t keep) {
  constexpr int kShift = 20;
  std::array<uint32_t, (size_t{1} << (32 - kShift))> counts{};
  for (const float x : scores) ++counts[ordered(x) >> kShift];
  auto leading = static_cast<uint32_t>(counts.size() - 1);
  for (; counts[leading] < keep; --leading) keep -= counts[leading];
  std::vector<uint32_t> among;
  among.reserve(counts[leading]);
  for (const float x : scores)
    if (ordered(x) >> kShift == leading) among.push_back(ordered(x));
  const auto cut = among.begin() + keep - 1;
  std::nth_element(among.begin(), cut, among.end(), std::greater<>());
  return {*cut, keep - std::count_if(among.begin(), cut, [=](uint32_t x) { return x > *cut; })};
}

/// A score, as `ordered` has it, that some more than `keep` of them probably reach: told from a few. The
/// lowest where there are too few to tell.
uint32_t probable_floor(std::span<const float> scores, int64_t keep) {
  constexpr size_t kEvery = 16;
  std::vector<uint32_t> some;
  some.reserve(scores.size() / kEvery + 1);
  for (size_t i = 0; i < scores.size(); i += kEvery) some.push_back(ordered(scores[i]));
  const auto rank = static_cast<size_t>(keep) / kEvery;
  const size_t with_margin = rank + rank / 8 + 16;
  if (with_margin >= some.size()) return 0;
  const auto at = some.begin() + static_cast<std::ptrdiff_t>(with_margin);
  std::nth_element(some.begin(), at, some.end(), std::greater<>());
  return *at;
}

/// dst [keep, rows] I32, ascending, of src[0] [w, rows] F32.
void top_scores(ggml_tensor* dst, int ith, int nth, void*) {
  const auto* scores = dst->src[0];
  const auto w = static_cast<size_t>(scores->ne[0]);
  const int64_t keep = dst->ne[0];
  std::vector<int32_t> numbers(w + 1);
  std::vector<float> values;
  for (int64_t row = ith; row < scores->ne[1]; row += nth) {
    const auto* s = reinterpret_cast<const float*>(static_cast<const char*>(scores->data) +
                                                   static_cast<size_t>(row) * scores->nb[1]);
    // Most are far from the highest, and are looked at once.
    size_t count = 0;
    for (uint32_t floor = probable_floor({s, w}, keep); static_cast<int64_t>(count) < keep; floor = 0) {
      count = 0;
      for (size_t i = 0; i < w; ++i) {
        numbers[count] = static_cast<int32_t>(i);
        count += ordered(s[i]) >= floor ? 1 : 0;
      }
    }
    values.resize(count);
    for (size_t i = 0; i < count; ++i) values[i] = s[numbers[i]];
    auto [threshold, room] = threshold_of(values, keep);
    auto* kept =
        reinterpret_cast<int32_t*>(static_cast<char*>(dst->data) + static_cast<size_t>(row) * dst->nb[1]);
    int64_t found = 0;
    for (size_t i = 0; found < keep; ++i) {
      const uint32_t score = ordered(values[i]);
      kept[found] = numbers[i];
      found += score > threshold || (score == threshold && room-- > 0) ? 1 : 0;
    }
  }
}

/// 1 for the `keep` highest of each row, 0 for the others. ggml leaves open which of equal values are among
/// the highest, so ties are settled here: everything above the keep-th score, then of those equal to it the
/// earliest.
ggml_tensor* build_chosen(ggml_context* ctx, ggml_tensor* scores, int64_t keep) {
  const int64_t rows = scores->ne[1];
  auto values = [&](ggml_tensor* of, ggml_tensor* at) {
    auto* found = ggml_get_rows(ctx, ggml_reshape_3d(ctx, of, 1, of->ne[0], rows), at);
    return ggml_reshape_2d(ctx, found, at->ne[0], rows);
  };
  auto* highest = values(scores, ggml_top_k(ctx, scores, static_cast<int>(keep)));
  auto* threshold = values(highest, ggml_top_k(ctx, ggml_neg(ctx, highest), 1));
  auto* difference = ggml_sub(ctx, scores, threshold);
  auto* above = ggml_step(ctx, difference);
  auto* below = ggml_step(ctx, ggml_neg(ctx, difference));
  auto* equal = ggml_scale_bias(ctx, ggml_add(ctx, above, below), -1.0f, 1.0f);
  auto* room = ggml_scale_bias(ctx, ggml_sum_rows(ctx, above), -1.0f, static_cast<float>(keep));
  auto* beyond =
      ggml_sub(ctx, ggml_cumsum(ctx, equal), room);  // > 0 past the last equal one there is room for
  auto* early = ggml_step(ctx, ggml_scale_bias(ctx, beyond, -1.0f, 0.5f));
  return ggml_add(ctx, above, ggml_mul(ctx, equal, early));
}

}  // namespace

ggml_tensor* build_top_scores(ggml_context* ctx, ggml_tensor* scores, int64_t keep, bool on_cpu) {
  const int64_t w = scores->ne[0];
  if (w > kMostScores) throw Error(fmt::format("{} scores; a policy can choose among {}", w, kMostScores));
  if (on_cpu)
    return ggml_custom_4d(ctx, GGML_TYPE_I32, keep, scores->ne[1], 1, 1, &scores, 1, top_scores,
                          GGML_N_TASKS_MAX, nullptr);
  auto* chosen = build_chosen(ctx, scores, keep);
  // Distinct keys, exact in float32 for kMostScores: the chosen above all others.
  auto* number = ggml_arange(ctx, 0.0f, static_cast<float>(w), 1.0f);
  auto* key = ggml_sub(ctx, ggml_scale(ctx, chosen, 2.0f * static_cast<float>(w)), number);
  return ggml_top_k(ctx, key, static_cast<int>(keep));
}

ggml_tensor* build_raised(ggml_context* ctx, ggml_tensor* scores, ggml_tensor* ranks, int64_t count) {
  if (count <= 0) return scores;
  return ggml_add(ctx, scores, ggml_scale(ctx, build_chosen(ctx, ranks, count), kRaise));
}

}  // namespace windowkv
