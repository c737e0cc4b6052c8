#include "engine/replay.h"

#include <algorithm>

#include "policy/observed_attention.h"
#include "windowkv/error.h"
#include "windowkv/head_scores.h"

namespace windowkv {

namespace {

/// The text's tokens as they are, without BOS.
std::vector<Token> plain_tokens(const Vocab* vocab, std::string_view text) {
  if (vocab == nullptr) return {};
  auto tokens = vocab->tokenize(text);
  tokens.erase(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(vocab->tokenize("").size()));
  return tokens;
}

}  // namespace

std::vector<Token> ReplayPart::tokens(std::span<const Token> prompt) const {
  auto tokens = instruction;
  tokens.insert(tokens.end(), prompt.begin() + (part.first - quoted), prompt.begin() + part.second);
  return tokens;
}

std::vector<ReplayPart> replay_parts(const Vocab* vocab, const Replay& replay, int64_t n) {
  std::vector<ReplayPart> parts;
  if (replay.part <= 0) return parts;
  const auto later = n > replay.part ? plain_tokens(vocab, replay.later) : std::vector<Token>{};
  for (int64_t first = 0; first < n; first += replay.part) {
    const TokenRange part{first, std::min(n, first + replay.part)};
    if (first == 0)
      parts.push_back({plain_tokens(vocab, replay.first), 0, part});
    else
      parts.push_back({later, vocab != nullptr ? std::min(replay.quoted, first) : 0, part});
  }
  return parts;
}

int64_t longest_replay(std::span<const ReplayPart> parts) {
  int64_t longest = 0;
  for (const auto& part : parts) longest = std::max(longest, part.length());
  return longest;
}

void add_replay(Replay& all, const Replay& wanted) {
  if (wanted.part <= 0) return;
  if (all.part > 0 && all != wanted)
    throw Error("policies that choose together have the prompt repeated in different ways");
  all = wanted;
}

Replays make_replays(const Vocab* vocab, std::span<const Replay> replays, std::span<const int64_t> lengths) {
  Replays all;
  for (size_t prompt = 0; prompt < lengths.size(); ++prompt)
    all.push_back(replay_parts(vocab, replays[prompt], lengths[prompt]));
  return all;
}

int64_t longest_replay(const Replays& replays) {
  int64_t longest = 0;
  for (const auto& parts : replays) longest = std::max(longest, longest_replay(parts));
  return longest;
}

int64_t replay_rows(const Replays& replays, std::span<const int64_t> lengths) {
  int64_t most = 0;
  for (size_t prompt = 0; prompt < replays.size(); ++prompt)
    if (!replays[prompt].empty()) most = std::max(most, lengths[prompt] + longest_replay(replays[prompt]));
  return most;
}

int64_t tokens_of(const Replays& replays) {
  int64_t sum = 0;
  for (const auto& parts : replays)
    for (const auto& part : parts) sum += part.length();
  return sum;
}

ggml_tensor* ReplayMaxima::of_head(ggml_context* ctx, int64_t head) const {
  return ggml_view_1d(
      ctx, most, count(),
      static_cast<size_t>(head) * most->nb[1] + static_cast<size_t>(part.first) * most->nb[0]);
}

namespace {

constexpr int64_t kRaisedBytes = int64_t{32} << 20;  // of attention weights
constexpr int64_t kMostRaised = 4;                   // so that the graph has an end

/// Queries at once, of t.
int64_t tile_of(const HParams& hp, int64_t keys, int64_t t) {
  const int64_t share = hp.n_head / hp.n_head_kv;
  return std::min(t, std::max((t + kMostRaised - 1) / kMostRaised,
                              kRaisedBytes / (keys * share * static_cast<int64_t>(sizeof(float)))));
}

/// [keys, queries, heads] → [keys]: the most of each key.
ggml_tensor* build_max_over_rows(ggml_context* ctx, ggml_tensor* a) {
  auto* most = build_max_over_queries(ctx, a);
  most = build_max_over_queries(ctx, ggml_reshape_2d(ctx, most, a->ne[0], a->ne[2]));
  return ggml_reshape_1d(ctx, most, a->ne[0]);
}

}  // namespace

void raise_maxima(Graph& graph, const HParams& hp, ggml_tensor* q, const KvRows& rows, int64_t first,
                  const ReplayMaxima& maxima) {
  auto* ctx = graph.ctx();
  const int64_t share = hp.n_head / hp.n_head_kv;
  const int64_t t = q->ne[2];
  auto numbers_of = [&](int64_t from, int64_t to) {
    return ggml_arange(ctx, static_cast<float>(from), static_cast<float>(to), 1.0f);
  };
  auto* numbers = ggml_concat(ctx, numbers_of(maxima.part.first, maxima.part.second),
                              numbers_of(maxima.prompt_tokens(), first + t), 0);
  if (maxima.sinks() > 0) numbers = ggml_concat(ctx, numbers_of(0, maxima.sinks()), numbers, 0);
  numbers = ggml_cast(ctx, numbers, GGML_TYPE_I32);
  const int64_t past = numbers->ne[0] - t;
  const int64_t tile = tile_of(hp, numbers->ne[0], t);
  for (int64_t h = 0; h < hp.n_head_kv; ++h) {
    auto* k = build_widened(ctx,
                            ggml_view_2d(ctx, rows.k(), hp.d_head, first + t, rows.k()->nb[1],
                                         ggml_row_size(rows.k()->type, h * hp.d_head)),
                            numbers);
    for (int64_t start = 0; start < t; start += tile) {
      const int64_t count = std::min(tile, t - start);
      auto* queries = ggml_cont(ctx, ggml_view_3d(ctx, q, hp.d_head, count, share, q->nb[2], q->nb[1],
                                                  static_cast<size_t>(start) * q->nb[2] +
                                                      static_cast<size_t>(h * share) * q->nb[1]));
      auto* seen = ggml_view_2d(ctx, k, hp.d_head, past + start + count, k->nb[1], 0);
      auto* weights =
          build_head_attention(ctx, queries, seen, past + start, {hp.attention_scale, hp.attention_softcap});
      auto* of_part = ggml_view_3d(ctx, weights, maxima.count(), count, share, weights->nb[1], weights->nb[2],
                                   static_cast<size_t>(maxima.sinks()) * weights->nb[0]);
      auto* held = maxima.of_head(ctx, h);
      graph.add(ggml_cpy(ctx, build_max(ctx, build_max_over_rows(ctx, of_part), held), held));
    }
  }
}

int64_t raise_bytes(const HParams& hp, const Replays& replays, int64_t t) {
  int64_t most = 0;
  for (const auto& parts : replays)
    for (const auto& part : parts) {
      const int64_t keys = kReplaySinks + part.part.second - part.part.first + part.length();
      // The weights, and half of them twice on the way to the most.
      const int64_t weights = 2 * tile_of(hp, keys, t) * (hp.n_head / hp.n_head_kv);
      most = std::max(most, keys * (hp.d_head + weights) * int64_t{4});
    }
  return most;
}

}  // namespace windowkv
