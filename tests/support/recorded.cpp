#include "support/recorded.h"

#include <ggml.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>

namespace windowkv::test {

namespace {

KeptTokens all_tokens(int64_t n) {
  std::vector<int32_t> all(static_cast<size_t>(n));
  std::iota(all.begin(), all.end(), 0);
  return {all};
}

/// Keeps everything and hands out Q and K instead of a choice: 4 bytes an element, as choose() gets them.
class Recorder final : public Policy {
 public:
  explicit Recorder(Recorded& out) : out_(&out) {}
  std::string_view name() const override { return "recorder"; }
  std::unique_ptr<Selector> start(const PromptShape& shape) const override {
    return std::make_unique<Keeper>(shape, out_);
  }

 private:
  class Keeper final : public Selector {
   public:
    Keeper(const PromptShape& shape, Recorded* out) : n_(shape.n), out_(out) {}
    int64_t observation() const override { return out_->rows; }
    int64_t capacity(int) const override { return n_; }
    bool decides(int) const override { return true; }
    ggml_tensor* build(ggml_context* ctx, std::span<const LayerView> views) const override {
      auto* q = ggml_cont(ctx, views.front().q);
      auto* k = ggml_cast(ctx, views.front().k, GGML_TYPE_F32);
      return ggml_concat(ctx, ggml_reshape_1d(ctx, q, ggml_nelements(q)),
                         ggml_reshape_1d(ctx, k, ggml_nelements(k)), 0);
    }
    KeptTokens choose(int, std::span<const int32_t> picked) override {
      const auto q_size = static_cast<size_t>(out_->d_head * out_->rows * out_->n_head);
      std::vector<float> values(picked.size());
      std::memcpy(values.data(), picked.data(), picked.size_bytes());
      out_->q.emplace_back(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(q_size));
      out_->k.emplace_back(values.begin() + static_cast<std::ptrdiff_t>(q_size), values.end());
      return all_tokens(n_);
    }
    std::vector<GroupSelection> groups() const override { return {}; }

   private:
    int64_t n_;
    Recorded* out_;
  };

  Recorded* out_;
};

class Fixed final : public Policy {
 public:
  explicit Fixed(std::vector<KeptTokens> kept) : kept_(std::move(kept)) {}
  std::string_view name() const override { return "fixed"; }
  std::unique_ptr<Selector> start(const PromptShape&) const override {
    return std::make_unique<Keeper>(kept_);
  }

 private:
  class Keeper final : public Selector {
   public:
    explicit Keeper(const std::vector<KeptTokens>& kept) : kept_(kept) {}
    int64_t observation() const override { return 0; }
    int64_t capacity(int layer) const override {
      size_t longest = 0;
      for (const auto& list : kept_[static_cast<size_t>(layer)]) longest = std::max(longest, list.size());
      return static_cast<int64_t>(longest);
    }
    bool heads_differ() const override { return true; }
    bool decides(int) const override { return false; }
    ggml_tensor* build(ggml_context*, std::span<const LayerView>) const override { return nullptr; }
    KeptTokens choose(int layer, std::span<const int32_t>) override {
      return kept_[static_cast<size_t>(layer)];
    }
    std::vector<GroupSelection> groups() const override { return {}; }

   private:
    std::vector<KeptTokens> kept_;
  };

  std::vector<KeptTokens> kept_;
};

std::vector<int32_t> positions(std::span<const TokenRange> ranges) {
  std::vector<int32_t> out;
  for (auto [first, end] : ranges)
    for (auto i = first; i < end; ++i) out.push_back(static_cast<int32_t>(i));
  return out;
}

}  // namespace

std::vector<double> Recorded::attention(int layer, int head, int64_t row) const {
  const auto& queries = q[static_cast<size_t>(layer)];
  const auto& keys = k[static_cast<size_t>(layer)];
  const int64_t kv = head / (n_head / n_head_kv);
  std::vector<double> weights(static_cast<size_t>(n), 0.0);
  const int64_t seen = n - rows + row + 1;
  double top = -std::numeric_limits<double>::infinity();
  for (int64_t j = 0; j < seen; ++j) {
    double dot = 0;
    for (int64_t x = 0; x < d_head; ++x)
      dot += static_cast<double>(queries[static_cast<size_t>((head * rows + row) * d_head + x)]) *
             keys[static_cast<size_t>((kv * n + j) * d_head + x)];
    weights[static_cast<size_t>(j)] = dot / std::sqrt(static_cast<double>(d_head));
    top = std::max(top, weights[static_cast<size_t>(j)]);
  }
  double sum = 0;
  for (int64_t j = 0; j < seen; ++j) {
    auto& w = weights[static_cast<size_t>(j)];
    w = std::exp(w - top);
    sum += w;
  }
  for (int64_t j = 0; j < seen; ++j) weights[static_cast<size_t>(j)] /= sum;
  return weights;
}

std::vector<double> Recorded::received(int layer, int head, Rows how) const {
  std::vector<double> out(static_cast<size_t>(n), 0.0);
  for (int64_t row = 0; row < rows; ++row) {
    const auto a = attention(layer, head, row);
    for (size_t j = 0; j < out.size(); ++j)
      out[j] = how == Rows::kSum ? out[j] + a[j] : std::max(out[j], a[j]);
  }
  return out;
}

std::vector<double> Recorded::replayed(int layer, int kv_head, TokenRange part) const {
  const int share = n_head / n_head_kv;
  std::vector<double> most(static_cast<size_t>(part.second - part.first), 0.0);
  auto counts = [&](int64_t j) {
    return j < kReplaySinks || (j >= part.first && j < part.second) || j >= n - rows;
  };
  for (int head = kv_head * share; head < (kv_head + 1) * share; ++head)
    for (int64_t row = 0; row < rows; ++row) {
      const auto weights = attention(layer, head, row);
      double sum = 0;
      for (int64_t j = 0; j < n; ++j)
        if (counts(j)) sum += weights[static_cast<size_t>(j)];
      for (size_t i = 0; i < most.size(); ++i)
        most[i] = std::max(most[i], weights[static_cast<size_t>(part.first) + i] / sum);
    }
  return most;
}

Recorded record(Engine& engine, const Model& model, std::span<const Token> prompt, int64_t rows) {
  const auto& hp = model.hparams();
  const auto n = static_cast<int64_t>(prompt.size());
  Recorded out{n, std::min(rows, n), hp.n_layer, hp.n_head, hp.n_head_kv, hp.d_head, {}, {}};
  Sequence sequence;
  engine.prefill(sequence, prompt, Recorder(out));
  return out;
}

std::unique_ptr<Policy> fixed_policy(std::vector<KeptTokens> kept) {
  return std::make_unique<Fixed>(std::move(kept));
}

std::vector<KeptTokens> kept_by_layer(const Sequence& sequence) {
  std::vector<KeptTokens> out;
  for (const auto& g : sequence.groups) {
    EXPECT_GE(g.group.first_layer, static_cast<int>(out.size())) << "groups overlap";
    out.resize(static_cast<size_t>(g.group.first_layer));
    KeptTokens kept;
    if (g.kept_by_head.empty())
      kept.push_back(positions(g.kept));
    else
      for (const auto& head : g.kept_by_head) kept.push_back(positions(head));
    for (int layer = g.group.first_layer; layer <= g.group.last_layer; ++layer) out.push_back(kept);
  }
  return out;
}

void expect_highest(std::span<const int32_t> chosen, std::span<const double> scores, int64_t first,
                    int64_t count) {
  const std::set<int32_t> set(chosen.begin(), chosen.end());
  double lowest_chosen = std::numeric_limits<double>::infinity();
  double highest_left = -lowest_chosen;
  int64_t number = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (set.contains(static_cast<int32_t>(first + static_cast<int64_t>(i)))) {
      ++number;
      lowest_chosen = std::min(lowest_chosen, scores[i]);
    } else {
      highest_left = std::max(highest_left, scores[i]);
    }
  }
  EXPECT_EQ(number, count);
  EXPECT_GE(lowest_chosen, highest_left - 1e-5 * std::abs(highest_left));
}

}  // namespace windowkv::test
