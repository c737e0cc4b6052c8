// Prefill through ggml's BLAS backend, beside ggml's own kernels, which parity_test holds against libllama.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <random>

#include "backend/backend.h"
#include "support/files.h"
#include "support/models.h"
#include "support/reference.h"
#include "windowkv/engine.h"

namespace windowkv::test {
namespace {

bool has_blas() {
  return Backends("cpu", 1).blas() != nullptr;
}

#define SKIP_WITHOUT_BLAS() \
  if (!has_blas())          \
  GTEST_SKIP() << "no ggml BLAS backend over an OpenMP OpenBLAS; scripts/setup.sh installs both"

struct Result {
  Logits logits;
  std::vector<GroupSelection> groups;
};

Result prefill(const Model& model, std::span<const Token> tokens, int chunk, const Policy& policy,
               bool all = true) {
  Engine engine(model, {.chunk = chunk});
  Sequence sequence;
  Result out;
  PrefillOptions options;
  if (all)
    options.all_logits = [&](int64_t, std::span<const float> logits) {
      out.logits.emplace_back(logits.begin(), logits.end());
    };
  const auto last = engine.prefill(sequence, tokens, policy, options);
  if (!all) out.logits.emplace_back(last.begin(), last.end());
  out.groups = sequence.groups;
  return out;
}

/// `top1` of the positions have the same most probable token, and no logit is further off than `bound`.
void expect_close(const std::string& path, std::span<const Token> tokens, int chunk, double top1,
                  double bound) {
  const auto with = prefill(*load(path), tokens, chunk, *full_policy());
  const auto without = prefill(*load(path, 1, /*blas=*/false), tokens, chunk, *full_policy());
  const auto d = compare(with.logits, without.logits);
  fmt::print("  {} chunk {}: top-1 {:.2f} %, max relative error {:.2e}, mean {:.2e}\n", path, chunk,
             100 * d.top1, d.worst, d.mean);
  EXPECT_GE(d.top1, top1);
  EXPECT_LT(d.worst, bound);
}

std::vector<Token> novel(const Model& model, size_t count) {
  auto tokens = model.vocab().tokenize(data_text("sherlock.txt"));
  tokens.resize(count);
  return tokens;
}

TEST(Blas, MiniLongOnRealText) {
  SKIP_WITHOUT_BLAS();
  for (auto [type, bound] : {std::pair{"f16", 1e-2}, {"q8_0", 6e-2}}) {
    const auto path = minilong_path(type);
    expect_close(path, novel(*load(path), 1000), 512, 0.97, bound);
  }
}

TEST(Blas, HeadLayoutsAndWeightTypes) {
  SKIP_WITHOUT_BLAS();
  for (auto type : {GGML_TYPE_F32, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_K})
    for (int n_head_kv : {1, 2, 4}) {
      RandomModel m;
      m.type = type;
      m.family = n_head_kv == 2 ? "qwen2" : "llama";
      m.n_embd = 256;
      m.n_head = 4;
      m.n_head_kv = n_head_kv;
      m.d_head = 64;
      m.n_ff = 512;
      const auto path = random_model_path(fmt::format("blas-{}-{}", ggml_type_name(type), n_head_kv), m);
      // For all but F32 ggml's kernels round activations, to eight bits where weights are quantized.
      const bool exact = type == GGML_TYPE_F32;
      expect_close(path, random_tokens(300, m.n_vocab), 128, exact ? 0.99 : 0.92, exact ? 1e-2 : 1e-1);
    }
}

// Experts multiply by ggml's kernels, beside products by BLAS. All are used, so that roundings choose none.
TEST(Blas, Experts) {
  SKIP_WITHOUT_BLAS();
  for (auto type : {GGML_TYPE_F32, GGML_TYPE_Q4_K}) {
    RandomModel m;
    m.family = "qwen3moe";
    m.type = type;
    m.n_embd = 256;
    m.d_head = 64;
    m.n_ff = m.n_ff_expert = 256;
    m.n_expert = m.n_expert_used = 3;
    const auto path = random_model_path(fmt::format("blas-experts-{}", ggml_type_name(type)), m);
    const bool exact = type == GGML_TYPE_F32;
    expect_close(path, random_tokens(300, m.n_vocab), 128, exact ? 0.99 : 0.92, exact ? 1e-2 : 1e-1);
  }
}

TEST(Blas, ChunksMakeNoDifferenceBeyondRounding) {
  SKIP_WITHOUT_BLAS();
  const auto model = load(minilong_path("f16"));
  const auto tokens = novel(*model, 700);
  const auto whole = prefill(*model, tokens, 700, *full_policy(), false);
  for (int chunk : {1, 31, 64, 512, 699})
    EXPECT_LT(
        relative_error(prefill(*model, tokens, chunk, *full_policy(), false).logits[0], whole.logits[0]),
        1e-2)
        << chunk;
}

/// Ascending.
std::vector<int32_t> kept_tokens(const GroupSelection& group) {
  std::vector<int32_t> tokens;
  for (auto [first, end] : group.kept)
    for (auto i = first; i < end; ++i) tokens.push_back(static_cast<int32_t>(i));
  return tokens;
}

TEST(Blas, KeepsWhatGgmlsKernelsKeep) {
  SKIP_WITHOUT_BLAS();
  const auto path = minilong_path("f16");
  const auto with = load(path);
  const auto without = load(path, 1, /*blas=*/false);
  const auto tokens = novel(*with, 1500);
  for (const char* name : {"windowkv", "snapkv", "h2o"}) {
    const auto policy = make_policy(name, {Budget::percent(12), SelectionConfig{}});
    const auto ours = prefill(*with, tokens, 512, *policy, false).groups;
    const auto theirs = prefill(*without, tokens, 512, *policy, false).groups;
    ASSERT_EQ(ours.size(), theirs.size());
    int64_t same = 0, of_ours = 0, of_theirs = 0;
    for (size_t g = 0; g < ours.size(); ++g) {
      const auto a = kept_tokens(ours[g]), b = kept_tokens(theirs[g]);
      std::vector<int32_t> both;
      std::ranges::set_intersection(a, b, std::back_inserter(both));
      EXPECT_FALSE(a.empty()) << name << " group " << g;
      same += std::ssize(both), of_ours += std::ssize(a), of_theirs += std::ssize(b);
    }
    EXPECT_GE(static_cast<double>(same), 0.98 * static_cast<double>(of_ours)) << name;
    EXPECT_GE(static_cast<double>(same), 0.98 * static_cast<double>(of_theirs)) << name;
  }
}

}  // namespace
}  // namespace windowkv::test
