// What the answer attends to, and how much of that a rule keeps: against plain loops and libllama's
// attention.
#include "eval/retrieval.h"

#include <ggml-backend.h>
#include <ggml.h>
#include <gtest/gtest.h>
#include <llama-cpp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "support/models.h"
#include "windowkv/error.h"
#include "windowkv/generate.h"

namespace windowkv::test {
namespace {

using eval::answer_attention;
using eval::AnswerAttention;
using eval::measure_retrieval;

constexpr int kLayers = 3;
constexpr int64_t kPrompt = 150;

std::string model_path() {
  RandomModel m;
  m.n_layer = kLayers;
  m.type = GGML_TYPE_F32;
  return random_model_path("retrieval", m);
}

/// Q of the last tokens and K of all, as the engine has them, layer by layer.
struct Captured {
  int64_t rows = 0, n = 0, d = 0, heads = 0, kv_heads = 0;
  std::vector<std::vector<float>> qk;  // Q [heads][rows][d], then K [kv_heads][n][d]
};

class Capture final : public Policy {
 public:
  explicit Capture(Captured& out) : out_(out) {}
  std::string_view name() const override { return "capture"; }
  std::unique_ptr<Selector> start(const PromptShape& shape) const override {
    out_.n = shape.n;
    out_.d = shape.d_head;
    out_.heads = shape.n_head;
    out_.kv_heads = shape.n_head_kv;
    return std::make_unique<Taking>(out_);
  }

 private:
  class Taking final : public Selector {
   public:
    explicit Taking(Captured& out) : out_(out) {}
    int64_t observation() const override { return out_.rows; }
    int64_t capacity(int) const override { return 1; }
    bool decides(int) const override { return true; }
    ggml_tensor* build(ggml_context* ctx, std::span<const LayerView> views) const override {
      auto* q = ggml_cont_1d(ctx, views.front().q, ggml_nelements(views.front().q));
      auto* k = ggml_cast(ctx, ggml_cont(ctx, views.front().k), GGML_TYPE_F32);
      return ggml_concat(ctx, q, ggml_reshape_1d(ctx, k, ggml_nelements(k)), 0);
    }
    KeptTokens choose(int, std::span<const int32_t> picked) override {
      out_.qk.emplace_back();
      for (auto bits : picked) out_.qk.back().push_back(std::bit_cast<float>(bits));
      return {{0}};
    }
    std::vector<GroupSelection> groups() const override { return {}; }

   private:
    Captured& out_;
  };

  Captured& out_;
};

/// Mean over the rows of softmax(q·k/√d), causal, by head and token of the prompt.
std::vector<double> plain_attention(const Captured& in, size_t layer, int64_t prompt) {
  std::vector<double> received(static_cast<size_t>(in.heads * prompt), 0.0);
  const float* q = in.qk[layer].data();
  const float* k = q + in.heads * in.rows * in.d;
  for (int64_t h = 0; h < in.heads; ++h)
    for (int64_t i = 0; i < in.rows; ++i) {
      const int64_t kv = h / (in.heads / in.kv_heads);
      std::vector<double> row(static_cast<size_t>(in.n - in.rows + i + 1));
      for (size_t j = 0; j < row.size(); ++j) {
        double dot = 0;
        for (int64_t x = 0; x < in.d; ++x)
          dot += static_cast<double>(q[(h * in.rows + i) * in.d + x]) *
                 k[(kv * in.n + static_cast<int64_t>(j)) * in.d + x];
        row[j] = std::exp(dot / std::sqrt(static_cast<double>(in.d)));
      }
      double total = 0;
      for (auto e : row) total += e;
      for (int64_t j = 0; j < prompt; ++j)
        received[static_cast<size_t>(h * prompt + j)] +=
            row[static_cast<size_t>(j)] / total / static_cast<double>(in.rows);
    }
  return received;
}

std::vector<Token> prefix_of(const std::vector<Token>& prompt, const std::vector<Token>& answer) {
  auto tokens = prompt;
  tokens.insert(tokens.end(), answer.begin(), answer.end() - 1);
  return tokens;
}

TEST(AnswerAttention, IsThatOfAPlainLoop) {
  const auto model = load(model_path());
  const auto prompt = random_tokens(kPrompt, model->hparams().n_vocab);
  for (int64_t count : {1, 2, 9}) {
    SCOPED_TRACE(count);
    const auto answer = random_tokens(count, model->hparams().n_vocab, 7);
    Engine engine(*model, {.chunk = 64});
    const auto got = answer_attention(engine, prompt, answer);
    Captured captured{.rows = count};
    Sequence sequence;
    engine.prefill(sequence, prefix_of(prompt, answer), Capture(captured));
    ASSERT_EQ(got.layers.size(), static_cast<size_t>(kLayers));
    ASSERT_EQ(got.heads(), 4U);
    for (size_t layer = 0; layer < got.layers.size(); ++layer) {
      const auto expected = plain_attention(captured, layer, kPrompt);
      ASSERT_EQ(got.layers[layer].size(), expected.size());
      for (size_t i = 0; i < expected.size(); ++i)
        ASSERT_NEAR(got.layers[layer][i], expected[i], 1e-6) << "layer " << layer << ", " << i;
    }
  }
}

/// libllama's softmax attention as its graph names it, "kq_soft_max-LAYER" [keys, tokens, heads].
bool collect_attention(ggml_tensor* tensor, bool ask, void* data) {
  const std::string_view name = tensor->name;
  if (name.substr(0, name.rfind('-')) != "kq_soft_max") return !ask;
  if (ask) return true;
  auto& layers = *static_cast<std::vector<std::vector<float>>*>(data);
  const auto tokens = tensor->ne[1];
  std::vector<float> all(static_cast<size_t>(ggml_nelements(tensor)));
  ggml_backend_tensor_get(tensor, all.data(), 0, ggml_nbytes(tensor));
  layers.emplace_back();
  for (int64_t h = 0; h < tensor->ne[2]; ++h)
    for (int64_t i = 0; i < tokens; ++i)
      for (int64_t j = 0; j < tokens; ++j)
        layers.back().push_back(all[static_cast<size_t>((h * tokens + i) * tensor->ne[0] + j)]);
  return true;
}

TEST(AnswerAttention, IsThatOfLibllama) {
  const auto path = model_path();
  const auto model = load(path);
  const auto prompt = random_tokens(kPrompt, model->hparams().n_vocab);
  const auto answer = random_tokens(5, model->hparams().n_vocab, 7);
  Engine engine(*model);
  const auto got = answer_attention(engine, prompt, answer);

  auto tokens = prefix_of(prompt, answer);
  const auto n = tokens.size();
  auto model_params = llama_model_default_params();
  model_params.n_gpu_layers = 0;
  const llama_model_ptr theirs(llama_model_load_from_file(path.c_str(), model_params));
  ASSERT_TRUE(theirs);
  std::vector<std::vector<float>> layers;
  auto params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = 256;
  params.n_threads = params.n_threads_batch = 1;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.cb_eval = collect_attention;
  params.cb_eval_user_data = &layers;
  const llama_context_ptr context(llama_init_from_model(theirs.get(), params));
  ASSERT_TRUE(context);
  layers.clear();  // of what making the context may have run
  ASSERT_EQ(llama_decode(context.get(), llama_batch_get_one(tokens.data(), static_cast<int32_t>(n))), 0);
  ASSERT_EQ(layers.size(), static_cast<size_t>(kLayers));

  for (size_t layer = 0; layer < layers.size(); ++layer) {
    ASSERT_EQ(layers[layer].size(), got.heads() * n * n);
    for (size_t h = 0; h < got.heads(); ++h)
      for (size_t j = 0; j < prompt.size(); ++j) {
        double mean = 0;
        for (size_t i = n - answer.size(); i < n; ++i) mean += layers[layer][(h * n + i) * n + j];
        mean /= static_cast<double>(answer.size());
        // Keys are F16 in both, values' sums differ in their order and precision.
        ASSERT_NEAR(got.head(layer, h)[j], mean, 1e-2 * mean)
            << "layer " << layer << " head " << h << " token " << j;
      }
  }
}

eval::Contender contender(const std::string& spec, const std::string& budget) {
  return eval::make_contender(spec, budget, kLayers);
}

std::vector<eval::RetrievalPrompt> prompts(int n_vocab) {
  std::vector<eval::RetrievalPrompt> out;
  for (uint64_t seed : {1, 2})
    out.push_back({.tokens = random_tokens(kPrompt, n_vocab, seed), .max_tokens = 6});
  return out;
}

TEST(Retrieval, SharesAreThoseOfAPlainLoop) {
  const auto model = load(model_path());
  Engine engine(*model);
  const std::vector<eval::Contender> rules = {
      contender("full", "100%"),     contender("snapkv", "30%"),
      contender("windowkv", "30%"),  contender("windowkv:preset=paper:group=2:observe=8", "30%"),
      contender("pyramidkv", "30%"), contender("windowkv:group=2:decide=all:heads=mean", "30%")};
  const auto inputs = prompts(model->hparams().n_vocab);
  eval::RetrievalOptions options;
  options.best = 0.1;
  const auto result = measure_retrieval(engine, *model, inputs, rules, options);
  EXPECT_EQ(result.prompts, 2);
  EXPECT_EQ(result.prompt_tokens, 2 * kPrompt);
  EXPECT_EQ(result.answer_tokens, 12);

  std::vector<double> mass(kLayers, 0.0), best(kLayers, 0.0);
  std::vector<std::vector<double>> kept(rules.size(), std::vector<double>(kLayers * 4, 0.0));
  for (const auto& input : inputs) {
    Sequence full;
    const auto logits = engine.prefill(full, input.tokens, *full_policy());
    GenerateOptions greedy;
    greedy.max_tokens = 6;
    const auto answer = generate(engine, nullptr, full, logits, input.tokens, greedy).tokens;
    const auto attention = answer_attention(engine, input.tokens, answer);
    for (size_t r = 0; r < rules.size(); ++r) {
      Sequence sequence;
      engine.prefill(sequence, input.tokens, *rules[r].make(Task::kLocalization));
      for (const auto& group : sequence.groups)
        for (int layer = group.group.first_layer; layer <= group.group.last_layer; ++layer)
          for (size_t h = 0; h < 4; ++h) {
            const auto& ranges = group.kept_by_head.empty() ? group.kept : group.kept_by_head[h / 2];
            const auto received = attention.head(static_cast<size_t>(layer), h);
            double part = 0, all = 0;
            std::vector<double> middle;
            for (int64_t j = 4; j < kPrompt - 32; ++j) {
              const double a = received[static_cast<size_t>(j)];
              middle.push_back(a);
              all += a;
              for (auto [first, last] : ranges) part += j >= first && j < last ? a : 0.0;
            }
            const auto l = static_cast<size_t>(layer);
            kept[r][l * 4 + h] += part / all / 2;
            if (r > 0) continue;
            mass[l] += all / 4 / 2;
            std::sort(middle.rbegin(), middle.rend());
            double most = 0;
            for (size_t i = 0; i < 12; ++i) most += middle[i];  // ⌈0.1 · 114⌉
            best[l] += most / all / 4 / 2;
          }
    }
  }
  for (size_t l = 0; l < kLayers; ++l) {
    EXPECT_NEAR(result.layers[l].all.mass, mass[l], 1e-6);
    EXPECT_NEAR(result.layers[l].all.concentration, best[l], 1e-6);
    for (size_t r = 0; r < rules.size(); ++r)
      for (size_t h = 0; h < 4; ++h)
        EXPECT_NEAR(result.layers[l].heads[h].kept[r], kept[r][l * 4 + h], 1e-6)
            << rules[r].name << " layer " << l << " head " << h;
    for (const auto& head : result.layers[l].heads) EXPECT_DOUBLE_EQ(head.kept[0], 1.0);
    EXPECT_DOUBLE_EQ(result.layers[l].all.kept[0], 1.0);
    for (size_t r = 1; r < rules.size(); ++r) EXPECT_LT(result.layers[l].all.kept[r], 1.0);
  }
}

TEST(Retrieval, IsDeterministic) {
  const auto model = load(model_path());
  Engine engine(*model);
  const std::vector<eval::Contender> rules = {contender("windowkv", "20%")};
  const auto inputs = prompts(model->hparams().n_vocab);
  const auto first = measure_retrieval(engine, *model, inputs, rules).json();
  EXPECT_EQ(measure_retrieval(engine, *model, inputs, rules).json(), first);
  EXPECT_EQ(first["layers"].size(), static_cast<size_t>(kLayers));
  EXPECT_EQ(first["layers"][0]["heads"].size(), 4U);
}

TEST(Retrieval, LeavesPromptsOutThatHaveNothingBetweenTheEnds) {
  const auto model = load(model_path());
  Engine engine(*model);
  const std::vector<eval::Contender> rules = {contender("windowkv", "20%")};
  auto inputs = prompts(model->hparams().n_vocab);
  inputs[0].tokens.resize(36);
  std::vector<size_t> left_out;
  eval::RetrievalOptions options;
  options.left_out = [&](size_t number, const std::string& why) {
    left_out.push_back(number);
    EXPECT_NE(why.find("36 tokens"), std::string::npos) << why;
  };
  EXPECT_EQ(measure_retrieval(engine, *model, inputs, rules, options).prompts, 1);
  EXPECT_EQ(left_out, std::vector<size_t>{0});
  EXPECT_THROW(measure_retrieval(engine, *model, std::span(inputs).first(1), rules), Error);
  inputs[0].tokens = random_tokens(37, model->hparams().n_vocab);
  EXPECT_EQ(measure_retrieval(engine, *model, inputs, rules).prompts, 2);
}

TEST(Retrieval, StopsWhereItIsCancelled) {
  const auto model = load(model_path());
  Engine engine(*model);
  const std::vector<eval::Contender> rules = {contender("windowkv", "20%")};
  eval::RetrievalOptions options;
  options.cancelled = [] { return true; };
  EXPECT_THROW(measure_retrieval(engine, *model, prompts(model->hparams().n_vocab), rules, options),
               Cancelled);
}

}  // namespace
}  // namespace windowkv::test
