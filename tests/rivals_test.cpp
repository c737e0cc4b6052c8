// The policies WindowKV is compared with, against plain loops written from their papers' definitions.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <set>

#include "backend/graph.h"
#include "support/file.h"
#include "support/models.h"
#include "support/recorded.h"
#include "windowkv/engine.h"

namespace windowkv::test {
namespace {

constexpr int64_t kTokens = 300;
constexpr int64_t kDim = 16;
constexpr int kHeads = 4;
constexpr int kKvHeads = 2;
constexpr int kLayers = 6;
const PromptShape kShape{kTokens, kLayers, kHeads, kKvHeads, kDim};

constexpr int64_t kEmbd = 64;

/// A layer's tensors, as lists.
struct Inputs {
  std::vector<float> q;            // [heads][n][d], of the whole prompt
  std::vector<float> k;            // [n][kv_heads][d]
  std::vector<float> v;            // [n][kv_heads][d]
  std::vector<float> wo;           // [embd][heads * d]
  std::vector<float> before_rope;  // [heads][n][d], queries; q where it is empty
  std::vector<float> replayed;     // [kv_heads][n], LayerView::replayed
};

/// LayerView::moments of queries before RoPE, of which it rotates i and i + kDim / 2 together.
std::vector<float> moments(const std::vector<float>& q) {
  std::vector<float> out(kHeads * (kDim + 2) * kDim, 0.0f);
  for (int64_t head = 0; head < kHeads; ++head)
    for (int64_t i = kMomentSinks; i < kTokens; ++i) {
      const auto* x = &q[static_cast<size_t>((head * kTokens + i) * kDim)];
      auto column = [&](int64_t a) { return &out[static_cast<size_t>((head * (kDim + 2) + a) * kDim)]; };
      for (int64_t a = 0; a <= kDim; ++a)
        for (int64_t b = 0; b < kDim; ++b) column(a)[b] += (a < kDim ? x[a] : 1.0f) * x[b];
      for (int64_t b = 0; b < kDim / 2; ++b) column(kDim + 1)[b] += std::hypot(x[b], x[b + kDim / 2]);
    }
  return out;
}

/// LayerView::rotation of RoPE as in NeoX, base 10,000.
std::vector<float> rotation(std::span<const TokenRange> ahead) {
  int64_t count = 0;
  for (const auto& [first, end] : ahead) count += end - first;
  std::vector<float> out(kDim * kDim, 0.0f);
  for (int64_t i = 0; i < kDim / 2; ++i) {
    double cosine = 0, sine = 0;
    for (const auto& [first, end] : ahead)
      for (int64_t position = kTokens + first; position < kTokens + end; ++position) {
        const double angle =
            static_cast<double>(position) * std::pow(10000.0, -2.0 * static_cast<double>(i) / kDim);
        cosine += std::cos(angle) / static_cast<double>(count);
        sine += std::sin(angle) / static_cast<double>(count);
      }
    const int64_t j = i + kDim / 2;
    out[static_cast<size_t>(i * kDim + i)] = out[static_cast<size_t>(j * kDim + j)] =
        static_cast<float>(cosine);
    out[static_cast<size_t>(i * kDim + j)] = static_cast<float>(sine);
    out[static_cast<size_t>(j * kDim + i)] = static_cast<float>(-sine);
  }
  return out;
}

Inputs random_inputs(uint64_t seed) {
  std::mt19937_64 random(seed);
  auto uniform = [&] { return static_cast<float>(static_cast<double>(random() >> 11) * 0x1p-53 * 4 - 2); };
  Inputs in{std::vector<float>(kHeads * kTokens * kDim),
            std::vector<float>(kTokens * kKvHeads * kDim),
            std::vector<float>(kTokens * kKvHeads * kDim),
            std::vector<float>(kEmbd * kHeads * kDim),
            {},
            std::vector<float>(kKvHeads * kTokens)};
  for (auto* values : {&in.q, &in.k, &in.v, &in.wo, &in.replayed})
    std::generate(values->begin(), values->end(), uniform);
  return in;
}

/// Attention each token receives from the last `rows` queries of a head, summed.
std::vector<double> received(const Inputs& in, int head, int64_t rows) {
  std::vector<double> sums(kTokens, 0.0);
  for (int64_t i = kTokens - rows; i < kTokens; ++i) {
    std::vector<double> row(static_cast<size_t>(i + 1));
    for (int64_t j = 0; j <= i; ++j) {
      double dot = 0;
      for (int64_t x = 0; x < kDim; ++x)
        dot += static_cast<double>(in.q[static_cast<size_t>((head * kTokens + i) * kDim + x)]) *
               in.k[static_cast<size_t>((j * kKvHeads + head / (kHeads / kKvHeads)) * kDim + x)];
      row[static_cast<size_t>(j)] = std::exp(dot / std::sqrt(static_cast<double>(kDim)));
    }
    double sum = 0;
    for (double x : row) sum += x;
    for (size_t j = 0; j < row.size(); ++j) sums[j] += row[j] / sum;
  }
  return sums;
}

/// What the selector keeps in each of the layers. `on_cpu`: LayerView::on_cpu.
std::vector<KeptTokens> select(Selector& selector, std::span<const Inputs> layers, bool on_cpu = false) {
  static const Backends backends("cpu", 1);
  Scheduler scheduler(backends);
  std::vector<KeptTokens> kept;
  const int last = static_cast<int>(layers.size()) - 1;
  for (int first = 0; first <= last;) {
    const int settled = std::min(last, selector.settled_at(first));
    Graph graph;
    auto* ctx = graph.ctx();
    std::vector<LayerView> views;
    std::vector<std::pair<ggml_tensor*, std::vector<float>>> contents;
    auto input = [&](int64_t ne0, int64_t ne1, const std::vector<float>& values) {
      contents.emplace_back(graph.input(GGML_TYPE_F32, ne0, ne1), values);
      graph.add(contents.back().first);
      return contents.back().first;
    };
    for (int layer = first; layer <= settled; ++layer) {
      if (!selector.decides(layer)) continue;
      const auto& in = layers[static_cast<size_t>(layer)];
      LayerView view;
      view.layer = layer;
      if (const int64_t rows = selector.observation(); rows > 0) {
        auto* all = ggml_reshape_3d(ctx, input(kDim, kTokens * kHeads, in.q), kDim, kTokens, kHeads);
        view.q = ggml_cont(ctx, ggml_view_3d(ctx, all, kDim, rows, kHeads, all->nb[1], all->nb[2],
                                             static_cast<size_t>(kTokens - rows) * all->nb[1]));
      }
      auto by_head = [&](ggml_tensor* t) {
        return ggml_view_3d(ctx, t, kDim, kTokens, kKvHeads, t->nb[1], kDim * sizeof(float), 0);
      };
      view.k = by_head(input(kDim * kKvHeads, kTokens, in.k));
      view.v = by_head(input(kDim * kKvHeads, kTokens, in.v));
      view.wo = input(kDim * kHeads, kEmbd, in.wo);
      if (selector.stride() > 0) {
        std::vector<float> sums;
        for (int h = 0; h < kHeads; ++h)
          for (double x : received(in, h, kTokens)) sums.push_back(static_cast<float>(x));
        view.accumulated = input(kTokens, kHeads, sums);
      }
      if (selector.replay().part > 0) view.replayed = input(kTokens, kKvHeads, in.replayed);
      if (selector.query_moments()) {
        const auto sums = moments(in.before_rope.empty() ? in.q : in.before_rope);
        view.moments = ggml_reshape_3d(ctx, input(kDim, (kDim + 2) * kHeads, sums), kDim, kDim + 2, kHeads);
        view.moment_queries = kTokens - kMomentSinks;
        view.rotation = input(kDim, kDim, rotation(selector.ahead()));
        view.rope_stretch = input(1, 1, {1.0f});
        view.rope_pairs = {.dims = kDim};
      }
      view.on_cpu = on_cpu;
      view.scale = 1.0f / std::sqrt(static_cast<float>(kDim));
      views.push_back(view);
    }
    std::vector<int32_t> picked;
    if (!views.empty()) {
      auto* out = graph.output(selector.build(ctx, views));
      scheduler.allocate(graph);
      for (const auto& [tensor, values] : contents)
        if (tensor->buffer != nullptr) ggml_backend_tensor_set(tensor, values.data(), 0, ggml_nbytes(tensor));
      scheduler.compute(graph);
      picked.resize(static_cast<size_t>(ggml_nelements(out)));
      ggml_backend_tensor_get(out, picked.data(), 0, ggml_nbytes(out));
    }
    for (; first <= settled; ++first) kept.push_back(selector.choose(first, picked));
  }
  return kept;
}

/// The same of layers that are all given the same tensors.
std::vector<KeptTokens> select(Selector& selector, const Inputs& in, bool on_cpu = false) {
  return select(selector, std::vector<Inputs>(kLayers, in), on_cpu);
}

std::vector<KeptTokens> select(const char* policy, int64_t budget, const Inputs& in) {
  auto selector = make_policy(policy, {Budget::tokens(budget), {}})->start(kShape);
  return select(*selector, in);
}

/// The kept tokens of [first, last) are `count` of those with the highest scores.
void expect_highest(const std::vector<int32_t>& kept, const std::vector<double>& scores, int64_t first,
                    int64_t last, int64_t count) {
  double lowest_kept = 1e300;
  double highest_dropped = -1e300;
  int64_t number = 0;
  const std::set<int32_t> set(kept.begin(), kept.end());
  for (int64_t i = first; i < last; ++i) {
    const double s = scores[static_cast<size_t>(i)];
    if (set.contains(static_cast<int32_t>(i))) {
      ++number;
      lowest_kept = std::min(lowest_kept, s);
    } else {
      highest_dropped = std::max(highest_dropped, s);
    }
  }
  EXPECT_EQ(number, count);
  EXPECT_GE(lowest_kept, highest_dropped * (1 - 1e-5));
}

void expect_range(const std::vector<int32_t>& kept, int64_t first, int64_t last) {
  const std::set<int32_t> set(kept.begin(), kept.end());
  for (int64_t i = first; i < last; ++i) EXPECT_TRUE(set.contains(static_cast<int32_t>(i))) << i;
}

TEST(Rivals, StreamingLlmKeepsFourSinksAndTheMostRecent) {
  for (const auto& layer : select("streaming-llm", 36, random_inputs(1))) {
    ASSERT_EQ(layer.size(), 1u);
    EXPECT_EQ(layer[0].size(), 36u);
    expect_range(layer[0], 0, 4);
    expect_range(layer[0], kTokens - 32, kTokens);
  }
}

/// SnapKV, Listing 1: attention of the last 32 queries summed, max pooling of 7, top-k a KV head (mean of its
/// queries).
std::vector<double> snapkv_scores(const Inputs& in, int kv_head) {
  const int64_t review = kTokens - 32;
  std::vector<double> scores(static_cast<size_t>(review), 0.0);
  for (int h = kv_head * 2; h < kv_head * 2 + 2; ++h) {
    const auto t = received(in, h, 32);
    for (int64_t i = 0; i < review; ++i) {
      double top = 0;
      for (int64_t j = std::max<int64_t>(0, i - 3); j <= std::min(review - 1, i + 3); ++j)
        top = std::max(top, t[static_cast<size_t>(j)]);
      scores[static_cast<size_t>(i)] += top / 2;
    }
  }
  return scores;
}

TEST(Rivals, SnapKvKeepsThePooledHighestOfEachKvHead) {
  const auto in = random_inputs(2);
  for (const auto& layer : select("snapkv", 72, in)) {
    ASSERT_EQ(layer.size(), static_cast<size_t>(kKvHeads));
    for (int h = 0; h < kKvHeads; ++h) {
      const auto& kept = layer[static_cast<size_t>(h)];
      EXPECT_EQ(kept.size(), 72u);
      EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
      expect_range(kept, kTokens - 32, kTokens);
      expect_highest(kept, snapkv_scores(in, h), 0, kTokens - 32, 40);
    }
  }
}

/// A tensor of tools/rival_vectors.py.
std::vector<float> tensor(uint64_t stream, int64_t count) {
  auto mixed = [](uint64_t x) {  // splitmix64's finalizer
    x += 0x9E3779B97F4A7C15;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
  };
  std::vector<float> values;
  for (uint64_t i = 0; i < static_cast<uint64_t>(count); ++i)
    values.push_back(static_cast<float>(mixed((stream << 32) + i) >> 40) / (1 << 22) - 2);
  return values;
}

/// [first][second][kDim] as [second][first][kDim].
std::vector<float> swapped(const std::vector<float>& values, int64_t first, int64_t second) {
  std::vector<float> out(values.size());
  for (int64_t i = 0; i < first; ++i)
    for (int64_t j = 0; j < second; ++j)
      std::copy_n(values.begin() + (i * second + j) * kDim, kDim, out.begin() + (j * first + i) * kDim);
  return out;
}

/// LayerView::replayed of a layer whose prompt has the keys k [n][kv_heads][d] and is repeated 128 tokens at
/// a time, each behind an instruction of ten.
std::vector<float> replayed_of_vectors(uint64_t layer, const std::vector<float>& k) {
  constexpr int64_t kPart = 128, kInstruction = 10;
  std::vector<float> all(kKvHeads * kTokens);
  for (int64_t part = 0; part * kPart < kTokens; ++part) {
    const TokenRange range{part * kPart, std::min(kTokens, (part + 1) * kPart)};
    const int64_t rows = kInstruction + range.second - range.first;
    const uint64_t stream = 2000 + 2 * (10 * layer + static_cast<uint64_t>(part));
    auto keys = k;
    const auto own = tensor(stream + 1, rows * kKvHeads * kDim);
    keys.insert(keys.end(), own.begin(), own.end());
    const Recorded recorded{kTokens + rows,
                            rows,
                            1,
                            kHeads,
                            kKvHeads,
                            kDim,
                            {tensor(stream, kHeads * rows * kDim)},
                            {swapped(keys, kTokens + rows, kKvHeads)}};
    for (int head = 0; head < kKvHeads; ++head) {
      const auto most = recorded.replayed(0, head, range);
      std::copy(most.begin(), most.end(), all.begin() + head * kTokens + range.first);
    }
  }
  return all;
}

/// The layer of tools/rival_vectors.py: queries of the observation window alone, at the prompt's end.
Inputs layer_of_vectors(uint64_t layer) {
  constexpr int64_t kWindow = 32;
  const auto observed = tensor(4 * layer, kHeads * kWindow * kDim);
  Inputs in{
      std::vector<float>(kHeads * kTokens * kDim),      tensor(4 * layer + 1, kTokens * kKvHeads * kDim),
      tensor(4 * layer + 2, kTokens * kKvHeads * kDim), tensor(4 * layer + 3, kEmbd * kHeads * kDim),
      tensor(1000 + layer, kHeads * kTokens * kDim),    {}};
  in.replayed = replayed_of_vectors(layer, in.k);
  for (int64_t head = 0; head < kHeads; ++head)
    std::copy_n(observed.begin() + head * kWindow * kDim, kWindow * kDim,
                in.q.begin() + ((head + 1) * kTokens - kWindow) * kDim);
  return in;
}

/// Whether a policy scores by functions of its own only.
bool cpu_alone(const std::string& name) {
  return name == "r-kv";
}

TEST(Rivals, KeepWhatKvpressAndTheAuthorsCodeKeep) {
  const auto vectors =
      nlohmann::json::parse(read_file(std::string(WINDOWKV_TEST_VECTORS_DIR) + "/rivals.json"));
  const int n_layer = vectors["shape"]["n_layer"];
  std::vector<Inputs> layers;
  layers.reserve(static_cast<size_t>(n_layer));
  for (int layer = 0; layer < n_layer; ++layer)
    layers.push_back(layer_of_vectors(static_cast<uint64_t>(layer)));
  const PromptShape shape{kTokens, n_layer, kHeads, kKvHeads, kDim};
  for (const auto& c : vectors["cases"]) {
    const auto name = c["policy"].get<std::string>();
    for (const bool on_cpu : {false, true}) {
      if (!on_cpu && cpu_alone(name)) continue;
      auto selector = make_policy(name, {Budget::tokens(c["budget"]), {}})->start(shape);
      EXPECT_EQ(select(*selector, layers, on_cpu), c["kept"].get<std::vector<KeptTokens>>())
          << name << " " << c["budget"] << " " << on_cpu;
    }
  }
}

TEST(Rivals, PyramidKvGivesFallingBudgetsWithTheSameMean) {
  const auto in = random_inputs(3);
  const auto layers = select("pyramidkv", 72, in);
  // rest 40, last 40/20 = 2, first 78, a step of 15.2 between.
  const std::vector<size_t> expected = {32 + 78, 32 + 62, 32 + 47, 32 + 32, 32 + 17, 32 + 2};
  size_t total = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    EXPECT_EQ(layers[i][0].size(), expected[i]);
    total += layers[i][0].size();
    expect_highest(layers[i][1], snapkv_scores(in, 1), 0, kTokens - 32,
                   static_cast<int64_t>(expected[i]) - 32);
  }
  EXPECT_LE(total, 72u * kLayers);
}

TEST(Rivals, PyramidKvCutsAtThePromptAndKeepsTheMean) {
  const auto layers = select("pyramidkv", 240, random_inputs(3));
  size_t total = 0;
  for (const auto& layer : layers) total += layer[0].size();
  EXPECT_EQ(layers[0][0].size(), static_cast<size_t>(kTokens));
  EXPECT_LE(total, 240u * kLayers);
  EXPECT_GE(total, 239u * kLayers);
}

TEST(Rivals, H2oKeepsHeavyHittersAndTheRecentHalf) {
  const auto in = random_inputs(4);
  for (const auto& layer : select("h2o", 60, in)) {
    ASSERT_EQ(layer.size(), static_cast<size_t>(kKvHeads));
    for (int h = 0; h < kKvHeads; ++h) {
      auto scores = received(in, 2 * h, kTokens);
      const auto other = received(in, 2 * h + 1, kTokens);
      for (size_t i = 0; i < scores.size(); ++i) scores[i] += other[i];
      EXPECT_EQ(layer[static_cast<size_t>(h)].size(), 60u);
      expect_range(layer[static_cast<size_t>(h)], kTokens - 30, kTokens);
      expect_highest(layer[static_cast<size_t>(h)], scores, 0, kTokens - 30, 30);
    }
  }
}

TEST(Rivals, TovaKeepsWhatTheLastQueryAttendsTo) {
  const auto in = random_inputs(5);
  std::vector<double> scores(kTokens, 0.0);
  for (int h = 0; h < kHeads; ++h) {
    const auto t = received(in, h, 1);
    for (size_t i = 0; i < t.size(); ++i) scores[i] += t[i];
  }
  for (const auto& layer : select("tova", 50, in)) {
    ASSERT_EQ(layer.size(), 1u);
    EXPECT_EQ(layer[0].back(), kTokens - 1);
    expect_highest(layer[0], scores, 0, kTokens - 1, 49);
  }
}

TEST(Rivals, ChunkKvKeepsWholeChunksAndReusesThemOnce) {
  const auto in = random_inputs(6);
  const int64_t review = kTokens - 32;
  std::vector<double> chunks(static_cast<size_t>((review + 9) / 10), 0.0);
  for (int h = 0; h < kHeads; ++h) {
    const auto t = received(in, h, 32);
    for (size_t c = 0; c < chunks.size(); ++c) {
      const size_t end = std::min<size_t>(static_cast<size_t>(review), (c + 1) * 10);
      for (size_t i = c * 10; i < end; ++i) chunks[c] += t[i] / static_cast<double>(end - c * 10);
    }
  }
  auto selector = make_policy("chunkkv", {Budget::tokens(82), {}})->start(kShape);
  const auto layers = select(*selector, in);
  for (int layer = 0; layer < kLayers; ++layer) {
    EXPECT_EQ(selector->decides(layer), layer % 2 == 0);
    EXPECT_EQ(layers[static_cast<size_t>(layer)], layers[static_cast<size_t>(layer / 2 * 2)]);
  }
  for (const auto& group : selector->groups())
    expect_highest(group.windows, chunks, 0, static_cast<int64_t>(chunks.size()), 5);
}

TEST(Rivals, RandomIsTheSameEveryTimeAndDiffersByLayerAndHead) {
  const auto in = random_inputs(7);
  const auto once = select("random", 60, in);
  EXPECT_EQ(once, select("random", 60, in));
  EXPECT_NE(once[0], once[1]);
  EXPECT_NE(once[0][0], once[0][1]);
  EXPECT_EQ(once[0][0].size(), 60u);
}

TEST(Rivals, TheSameBudgetMeansTheSameKeptBytes) {
  const auto in = random_inputs(8);
  for (const auto& name : policy_names()) {
    for (int64_t budget : {0, 1, 3, 20, 33, 36, 100, 299, 300}) {
      SelectionConfig config = make_config("default", Task::kLocalization, kLayers);
      const auto policy = make_policy(name, {Budget::tokens(budget), config});
      auto selector = policy->start(kShape);
      const auto layers = select(*selector, in, cpu_alone(name));
      int64_t total = 0;
      for (int layer = 0; layer < kLayers; ++layer) {
        const auto& kept = layers[static_cast<size_t>(layer)];
        for (const auto& list : kept) {
          if (!selector->heads_differ()) {
            EXPECT_EQ(list.size(), kept[0].size());
          }
          EXPECT_LE(static_cast<int64_t>(list.size()), selector->capacity(layer)) << name << " " << budget;
          EXPECT_TRUE(std::is_sorted(list.begin(), list.end()));
          EXPECT_EQ(std::adjacent_find(list.begin(), list.end()), list.end());
        }
        for (const auto& list : kept)
          total += static_cast<int64_t>(list.size()) * kKvHeads / static_cast<int64_t>(kept.size());
      }
      // Of all heads of all layers.
      if (name == "full") continue;
      EXPECT_LE(total, budget * kLayers * kKvHeads) << name << " " << budget;
      // Policies of whole windows may leave part of one unused in each layer.
      const int64_t slack = name == "chunkkv" ? 10 : 1;
      EXPECT_GE(total, (budget - slack) * kLayers * kKvHeads) << name << " " << budget;
    }
  }
}

std::string model_path() {
  RandomModel m;
  m.n_layer = 3;
  m.n_embd = 128;
  m.n_head = kHeads;
  m.n_head_kv = kKvHeads;
  m.d_head = 32;
  m.n_ff = 192;
  m.n_vocab = 256;
  return random_model_path("rivals", m);
}

TEST(Rivals, EveryPolicyRunsThroughTheEngineAndFullBudgetIsTheFullCache) {
  const auto model = load(model_path());
  Engine engine(*model, {64});
  const auto prompt = random_tokens(200, 256);
  auto continuation = [&](const Policy& policy) {
    Sequence sequence;
    auto logits = engine.prefill(sequence, prompt, policy);
    std::vector<float> last(logits.begin(), logits.end());
    for (Token token : {5, 9, 200}) {
      logits = engine.decode(sequence, token);
      last.assign(logits.begin(), logits.end());
    }
    return last;
  };
  const auto full = continuation(*full_policy());
  for (const auto& name : policy_names()) {
    if (cpu_alone(name) && test_device() != "cpu") continue;
    const auto config = make_config("default", Task::kLocalization, 3);
    EXPECT_EQ(continuation(*make_policy(name, {Budget::percent(100), config})), full) << name;
    Sequence sequence;
    engine.prefill(sequence, prompt, *make_policy(name, {Budget::tokens(50), config}));
    if (name == "full") continue;
    EXPECT_LT(sequence.bytes.kept, sequence.bytes.full / 3) << name;
  }
}

TEST(Rivals, OnePrefillForAllGivesWhatSeparateOnesGive) {
  const auto model = load(model_path());
  Engine engine(*model, {64});
  const auto prompt = random_tokens(200, 256);
  std::vector<std::unique_ptr<Policy>> owned;
  std::vector<const Policy*> policies;
  for (const auto& name : policy_names()) {
    if (cpu_alone(name) && test_device() != "cpu") continue;
    owned.push_back(make_policy(name, {Budget::tokens(50), make_config("default", Task::kAggregation, 3)}));
    policies.push_back(owned.back().get());
  }
  std::vector<Sequence> together(policies.size());
  const auto logits = engine.prefill(together, prompt, policies);
  const std::vector<float> first(logits.begin(), logits.end());
  for (size_t i = 0; i < policies.size(); ++i) {
    Sequence alone;
    const auto own = engine.prefill(alone, prompt, *policies[i]);
    EXPECT_EQ(first, std::vector<float>(own.begin(), own.end()));
    EXPECT_EQ(together[i].kept, alone.kept);
    const auto a = engine.decode(together[i], 7);
    const std::vector<float> next(a.begin(), a.end());
    const auto b = engine.decode(alone, 7);
    EXPECT_EQ(next, std::vector<float>(b.begin(), b.end())) << policies[i]->name();
  }
}

TEST(Rivals, CachesGroupedDifferentlyTakeTurnsOnOneEngine) {
  const auto model = load(minilong_path("q8_0"));
  Engine engine(*model);
  const auto prompt = random_tokens(400, 4096);
  std::vector<std::unique_ptr<Policy>> owned;
  std::vector<const Policy*> policies;
  for (int gamma : {1, 2, 3})
    for (int omega : {8, 16, 24, 32})
      for (double percent : {12, 25}) {
        auto config = make_config("paper", Task::kLocalization, 6);
        config.gamma = gamma;
        config.omega = omega;
        owned.push_back(windowkv_policy(Budget::percent(percent), config));
        policies.push_back(owned.back().get());
      }
  std::vector<Sequence> together(policies.size());
  engine.prefill(together, prompt, policies);
  for (Token token : {5, 6, 7})
    for (auto& sequence : together) engine.decode(sequence, token);
  for (size_t i = 0; i < policies.size(); ++i) {
    Sequence alone;
    engine.prefill(alone, prompt, *policies[i]);
    for (Token token : {5, 6, 7}) engine.decode(alone, token);
    const auto a = engine.decode(together[i], 8);
    const std::vector<float> next(a.begin(), a.end());
    const auto b = engine.decode(alone, 8);
    EXPECT_EQ(next, std::vector<float>(b.begin(), b.end())) << i;
  }
}

/// Picks 1 first where the attention the engine summed chunk by chunk differs from that of the whole prompt
/// at once, else 0.
class AccumulationProbe final : public Selector {
 public:
  AccumulationProbe(const PromptShape& shape, int64_t stride) : shape_(shape), stride_(stride) {}
  int64_t observation() const override { return shape_.n; }
  int64_t capacity(int) const override { return shape_.n; }
  bool decides(int) const override { return true; }
  int64_t stride() const override { return stride_; }
  ggml_tensor* build(ggml_context* ctx, std::span<const LayerView> views) const override {
    const auto& view = views.front();
    ggml_tensor* worst = nullptr;
    const int64_t share = view.q->ne[2] / view.k->ne[2];
    for (int64_t h = 0; h < view.q->ne[2]; ++h) {
      auto* q = ggml_view_2d(ctx, view.q, view.q->ne[0], shape_.n, view.q->nb[1],
                             static_cast<size_t>(h) * view.q->nb[2]);
      auto* k = ggml_cast(ctx,
                          ggml_view_2d(ctx, view.k, view.k->ne[0], shape_.n, view.k->nb[1],
                                       static_cast<size_t>(h / share) * view.k->nb[2]),
                          GGML_TYPE_F32);
      auto* a = ggml_soft_max(
          ctx, ggml_diag_mask_inf(ctx, ggml_scale(ctx, ggml_mul_mat(ctx, k, q), view.scale), 0));
      a = ggml_view_2d(ctx, a, a->ne[0], shape_.n / stride_, a->nb[1] * static_cast<size_t>(stride_),
                       static_cast<size_t>(stride_ - 1) * a->nb[1]);
      auto* sums = ggml_sum_rows(ctx, ggml_cont(ctx, ggml_transpose(ctx, a)));  // [1, n]
      auto* held =
          ggml_view_1d(ctx, view.accumulated, shape_.n, static_cast<size_t>(h) * view.accumulated->nb[1]);
      auto* off = ggml_abs(ctx, ggml_sub(ctx, ggml_reshape_1d(ctx, sums, shape_.n), held));
      auto* count = ggml_sum(ctx, ggml_step(ctx, ggml_scale_bias(ctx, off, 1.0f, -1e-3f)));
      worst = worst != nullptr ? ggml_add(ctx, worst, count) : count;
    }
    auto* half = ggml_scale_bias(ctx, worst, 0.0f, 0.5f);
    return ggml_argsort(ctx, ggml_concat(ctx, half, worst, 0), GGML_SORT_ORDER_DESC);
  }
  KeptTokens choose(int, std::span<const int32_t> picked) override {
    differs = differs || picked[0] == 1;
    ++asked;
    std::vector<int32_t> all(static_cast<size_t>(shape_.n));
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
    return {all};
  }
  std::vector<GroupSelection> groups() const override { return {}; }

  static inline bool differs = false;
  static inline int asked = 0;

 private:
  PromptShape shape_;
  int64_t stride_;
};

class Probe final : public Policy {
 public:
  explicit Probe(int64_t stride) : stride_(stride) {}
  std::string_view name() const override { return "probe"; }
  std::unique_ptr<Selector> start(const PromptShape& shape) const override {
    return std::make_unique<AccumulationProbe>(shape, stride_);
  }

 private:
  int64_t stride_;
};

TEST(Rivals, AttentionOfManyQueriesIsSummedAcrossChunksAndPrompts) {
  const Probe all(1), eighth(8), seventh(7);
  for (bool blas : {true, false}) {
    const auto model = load(model_path(), 1, blas);
    AccumulationProbe::asked = 0;
    for (int chunk : {7, 64, 512}) {
      Engine engine(*model, {chunk});
      std::vector<Sequence> together(3);
      const std::vector<const Policy*> policies = {&all, &eighth, &seventh};
      engine.prefill(together, random_tokens(150, 256), policies);
      // Two that share chunks, with the same queries and with others.
      const auto first = random_tokens(90, 256, 3), second = random_tokens(61, 256, 4);
      const std::vector<PrefillRequest> requests = {{&together[0], first, &eighth},
                                                    {&together[1], second, &eighth}};
      engine.prefill(requests);
      const std::vector<PrefillRequest> other = {{&together[0], first, &eighth},
                                                 {&together[1], second, &seventh}};
      engine.prefill(other);
    }
    EXPECT_EQ(AccumulationProbe::asked, 3 * (9 + 6 + 6));
    EXPECT_FALSE(AccumulationProbe::differs);
  }
}

/// Sees LayerView::moments and rotation, in thousandths.
class MomentsProbe final : public Selector {
 public:
  MomentsProbe(const PromptShape& shape, std::vector<std::vector<int32_t>>& seen)
      : shape_(shape), seen_(seen) {}
  int64_t observation() const override { return 1; }
  int64_t capacity(int) const override { return shape_.n; }
  bool decides(int) const override { return true; }
  std::vector<TokenRange> ahead() const override { return {{0, 512}}; }
  ggml_tensor* build(ggml_context* ctx, std::span<const LayerView> views) const override {
    const auto& view = views.front();
    auto flat = [&](ggml_tensor* t) { return ggml_reshape_1d(ctx, ggml_cont(ctx, t), ggml_nelements(t)); };
    auto* both = ggml_concat(ctx, flat(view.moments), flat(view.rotation), 0);
    return ggml_cast(ctx, ggml_scale(ctx, both, 1000.0f), GGML_TYPE_I32);
  }
  KeptTokens choose(int, std::span<const int32_t> picked) override {
    seen_.emplace_back(picked.begin(), picked.end());
    std::vector<int32_t> all(static_cast<size_t>(shape_.n));
    std::iota(all.begin(), all.end(), 0);
    return {all};
  }
  std::vector<GroupSelection> groups() const override { return {}; }

 private:
  PromptShape shape_;
  std::vector<std::vector<int32_t>>& seen_;
};

class SeesMoments final : public Policy {
 public:
  explicit SeesMoments(std::vector<std::vector<int32_t>>& seen) : seen_(seen) {}
  std::string_view name() const override { return "probe"; }
  std::unique_ptr<Selector> start(const PromptShape& shape) const override {
    return std::make_unique<MomentsProbe>(shape, seen_);
  }

 private:
  std::vector<std::vector<int32_t>>& seen_;
};

TEST(Rivals, MomentsAreThoseOfQueriesBeforeRope) {
  const auto model = load(model_path());
  const auto& hp = model->hparams();
  const int64_t n = 150, d = hp.d_head;
  ASSERT_EQ(hp.rope_mode, 0);  // neighbours turn together
  const auto prompt = random_tokens(n, 256);
  Engine whole(*model, {512});
  const auto recorded = record(whole, *model, prompt, n);
  auto angle = [&](int64_t position, int64_t pair) {
    return static_cast<double>(position) *
           std::pow(static_cast<double>(hp.rope_base),
                    -2.0 * static_cast<double>(pair) / static_cast<double>(d));
  };
  for (int chunk : {7, 64, 512}) {
    SCOPED_TRACE(chunk);
    Engine engine(*model, {chunk});
    std::vector<std::vector<int32_t>> seen;
    const SeesMoments policy(seen);
    Sequence sequence;
    engine.prefill(sequence, prompt, policy);
    ASSERT_EQ(seen.size(), static_cast<size_t>(hp.n_layer));
    for (int layer = 0; layer < hp.n_layer; ++layer) {
      const auto& got = seen[static_cast<size_t>(layer)];
      for (int head = 0; head < hp.n_head; ++head) {
        std::vector<double> sums(static_cast<size_t>(d * (d + 2)), 0.0);
        for (int64_t i = kMomentSinks; i < n; ++i) {
          std::vector<double> q(static_cast<size_t>(d));
          for (int64_t pair = 0; pair < d / 2; ++pair) {
            const auto* x =
                &recorded.q[static_cast<size_t>(layer)][static_cast<size_t>((head * n + i) * d + 2 * pair)];
            const double c = std::cos(angle(i, pair)), s = std::sin(angle(i, pair));
            q[static_cast<size_t>(2 * pair)] = c * x[0] + s * x[1];
            q[static_cast<size_t>(2 * pair + 1)] = c * x[1] - s * x[0];
            sums[static_cast<size_t>((d + 1) * d + pair)] += std::hypot(x[0], x[1]);
          }
          for (int64_t a = 0; a <= d; ++a)
            for (int64_t b = 0; b < d; ++b)
              sums[static_cast<size_t>(a * d + b)] +=
                  (a < d ? q[static_cast<size_t>(a)] : 1.0) * q[static_cast<size_t>(b)];
        }
        double most = 0, worst = 0;
        for (size_t i = 0; i < sums.size(); ++i) {
          most = std::max(most, std::abs(sums[i]));
          const auto at = static_cast<size_t>(head) * sums.size() + i;
          worst = std::max(worst, std::abs(sums[i] - got[at] / 1000.0));
        }
        EXPECT_LT(worst, 0.01 * most) << "layer " << layer << " head " << head;
      }
      const auto* turn = &got[got.size() - static_cast<size_t>(d * d)];
      for (int64_t pair = 0; pair < d / 2; ++pair) {
        double cosine = 0, sine = 0;
        for (int64_t position = n; position < n + 512; ++position) {
          cosine += std::cos(angle(position, pair)) / 512;
          sine += std::sin(angle(position, pair)) / 512;
        }
        EXPECT_NEAR(turn[2 * pair * d + 2 * pair] / 1000.0, cosine, 2e-3);
        EXPECT_NEAR(turn[2 * pair * d + 2 * pair + 1] / 1000.0, sine, 2e-3);
        EXPECT_NEAR(turn[(2 * pair + 1) * d + 2 * pair] / 1000.0, -sine, 2e-3);
      }
    }
  }
}

TEST(Rivals, OfAPromptFromAStoreOnlyWhatIsComputedIsSummed) {
  const auto model = load(model_path());
  Engine engine(*model, {64});
  const auto prompt = random_tokens(400, 256);
  const auto policy =
      make_policy("windowkv", {Budget::tokens(50), make_config("default", Task::kAggregation, 3)});
  PrefixStore store(*model, {.types = {KvType::kF16, KvType::kF16}});
  PrefillOptions options;
  options.store = &store;
  Sequence first, again;
  engine.prefill(first, std::span(prompt).first(200), *policy, options);
  engine.prefill(again, prompt, *policy, options);
  EXPECT_EQ(again.reused_tokens, 200);
  EXPECT_EQ(again.kept, std::vector<int64_t>(3, 50));
  // Where no query of those is computed, the end of the prompt decides alone.
  SelectionOverrides rare, none;
  rare.spread = 4096;
  none.spread = 0;
  std::vector<std::vector<GroupSelection>> chosen;
  for (const auto& overrides : {rare, none}) {
    Sequence sequence;
    engine.prefill(sequence, prompt,
                   *make_policy("windowkv", {Budget::tokens(50),
                                             make_config("default", Task::kAggregation, 3, overrides)}),
                   options);
    chosen.push_back(sequence.groups);
  }
  for (size_t g = 0; g < chosen[0].size(); ++g)
    EXPECT_EQ(chosen[0][g].kept_by_head, chosen[1][g].kept_by_head);
  // H2O needs all queries.
  Sequence h2o;
  engine.prefill(h2o, prompt, *make_policy("h2o", {Budget::tokens(50), {}}), options);
  EXPECT_EQ(h2o.reused_tokens, 0);
}

}  // namespace
}  // namespace windowkv::test
