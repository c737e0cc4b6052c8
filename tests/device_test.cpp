// Devices: what memory they have free, what they say of failures, and the engine on a GPU, with kernels,
// memory and an order of its own. The latter is skipped where ggml has none; `make test-vulkan` runs it, and
// the engine's other tests on the same device, on Mesa's software driver.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "backend/backend.h"
#include "backend/free_memory.h"
#include "support/files.h"
#include "support/models.h"
#include "support/outcomes.h"
#include "support/recorded.h"

namespace windowkv::test {
namespace {

class Device : public testing::Test {
 protected:
  void SetUp() override {
    if (gpu().empty()) GTEST_SKIP() << "ggml has no GPU here";
  }

  /// The device the tests are asked to run on, or the first GPU that ggml has; empty where there is none.
  static std::string gpu() {
    load_backends();
    if (const auto device = test_device(); device != "cpu") return device;
    for (auto type : {GGML_BACKEND_DEVICE_TYPE_GPU, GGML_BACKEND_DEVICE_TYPE_IGPU})
      if (auto* dev = ggml_backend_dev_by_type(type)) return ggml_backend_dev_name(dev);
    return {};
  }

  static std::unique_ptr<Model> load_on(const std::string& path, const std::string& devices) {
    ModelOptions options;
    options.threads = 1;
    options.blas = false;
    options.device = devices;
    if (devices.find(',') != std::string::npos) options.tensor_split = {1, 1};
    return Model::load(path, options);
  }
};

std::string model_path() {
  return random_model_path("device", eight_layers());
}

std::vector<int64_t> positions(const std::vector<TokenRange>& ranges) {
  std::vector<int64_t> out;
  for (const auto& [first, end] : ranges)
    for (auto i = first; i < end; ++i) out.push_back(i);
  return out;
}

/// Of what is kept here, the share that is kept there too.
double overlap(const std::vector<TokenRange>& here, const std::vector<TokenRange>& there) {
  std::vector<int64_t> both;
  const auto a = positions(here), b = positions(there);
  std::ranges::set_intersection(a, b, std::back_inserter(both));
  return a.empty() ? 1.0 : static_cast<double>(both.size()) / static_cast<double>(a.size());
}

/// The least over groups, and over heads where they differ.
double overlap(const Outcome& here, const Outcome& there) {
  double least = 1;
  for (size_t g = 0; g < here.kept.size(); ++g) {
    least = std::min(least, overlap(here.kept[g], there.kept[g]));
    for (size_t h = 0; h < here.kept_by_head[g].size(); ++h)
      least = std::min(least, overlap(here.kept_by_head[g][h], there.kept_by_head[g][h]));
  }
  return least;
}

/// Norm of the difference over that of the values expected; the largest of all steps.
double worst_error(const Outcome& got, const Outcome& expected) {
  double worst = 0;
  for (size_t step = 0; step < expected.logits.size(); ++step) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < expected.logits[step].size(); ++i) {
      difference += std::pow(got.logits[step][i] - expected.logits[step][i], 2);
      size += std::pow(expected.logits[step][i], 2);
    }
    worst = std::max(worst, std::sqrt(difference / size));
  }
  return worst;
}

/// A folder as the root of a system with these files.
std::filesystem::path system_of(const std::string& name, const std::map<std::string, std::string>& files) {
  const std::filesystem::path root = temp_path(name);
  for (const auto& [path, text] : files) {
    std::filesystem::create_directories((root / path).parent_path());
    std::ofstream(root / path) << text;
  }
  return root;
}

TEST(FreeMemory, IsTheLeastOfTheSystemsAndTheControlGroups) {
  const std::string meminfo = "MemTotal:  4000 kB\nMemFree: 10 kB\nMemAvailable:   2000 kB\nBuffers: 1 kB\n";
  const std::string v2 = "sys/fs/cgroup/", v1 = "sys/fs/cgroup/memory/";
  EXPECT_EQ(free_system_memory(system_of("nothing", {})), -1);
  EXPECT_EQ(free_system_memory(system_of("no-groups", {{"proc/meminfo", meminfo}})), 2000 * 1024);
  std::map<std::string, std::string> files = {{"proc/meminfo", meminfo},
                                              {"proc/self/cgroup", "0::/jobs/mine\n"},
                                              {v2 + "jobs/mine/memory.max", "max\n"},
                                              {v2 + "jobs/mine/memory.current", "300000\n"}};
  EXPECT_EQ(free_system_memory(system_of("v2-no-limit", files)), 2000 * 1024);
  files[v2 + "jobs/mine/memory.max"] = "1000000\n";
  EXPECT_EQ(free_system_memory(system_of("v2", files)), 700000);
  files[v2 + "jobs/mine/memory.stat"] = "anon 100\ninactive_file 200000\nactive_file 5\n";
  EXPECT_EQ(free_system_memory(system_of("v2-files", files)), 900000);
  files[v2 + "jobs/memory.max"] = "500000\n";
  files[v2 + "jobs/memory.current"] = "400000\n";
  EXPECT_EQ(free_system_memory(system_of("v2-above", files)), 100000);
  files[v2 + "jobs/memory.current"] = "600000\n";
  EXPECT_EQ(free_system_memory(system_of("v2-over", files)), 0);
  // A container that sees its own group as the root.
  EXPECT_EQ(free_system_memory(system_of("v2-container", {{"proc/meminfo", meminfo},
                                                          {"proc/self/cgroup", "0::/docker/0123\n"},
                                                          {v2 + "memory.max", "900000\n"},
                                                          {v2 + "memory.current", "100000\n"}})),
            800000);
  files = {{"proc/meminfo", meminfo},
           {"proc/self/cgroup", "12:cpu,cpuacct:/c\n5:memory:/jobs\n0::/\n"},
           {v1 + "jobs/memory.limit_in_bytes", "1000000\n"},
           {v1 + "jobs/memory.usage_in_bytes", "800000\n"},
           {v1 + "jobs/memory.stat", "inactive_file 1\ntotal_inactive_file 100000\n"},
           {v1 + "memory.limit_in_bytes", "9223372036854771712\n"},
           {v1 + "memory.usage_in_bytes", "5\n"}};
  EXPECT_EQ(free_system_memory(system_of("v1", files)), 300000);
}

TEST(FreeMemory, OfADriverThatDoesNotKnowItIsUnknown) {
  EXPECT_EQ(free_or_unknown(0, 0), -1);
  EXPECT_EQ(free_or_unknown(0, 100), 0);
  EXPECT_EQ(free_or_unknown(40, 100), 40);
  EXPECT_EQ(shares_of(std::vector<int64_t>{-1, 300, 100}), (std::vector<double>{200, 300, 100}));
  EXPECT_EQ(shares_of(std::vector<int64_t>{-1, -1}), (std::vector<double>{1, 1}));
  EXPECT_EQ(shares_of(std::vector<int64_t>{0, 100}), (std::vector<double>{1, 100}));
}

TEST(GgmlErrors, AreThoseOfTheFailureAtHand) {
  load_backends();
  auto fail = [] {
    EXPECT_EQ(llama_model_load_from_file(temp_path("none.gguf").c_str(), llama_model_default_params()),
              nullptr);
  };
  {
    const GgmlErrors errors;
    fail();
    EXPECT_NE(errors.first(), "");
    EXPECT_EQ(errors.in_brackets(), " (" + errors.first() + ")");
  }
  const GgmlErrors later;
  EXPECT_EQ(later.in_brackets(), "");
  std::thread(fail).join();  // another thread's
  EXPECT_EQ(later.first(), "");
}

TEST_F(Device, EveryPolicyKeepsWhatItDoesOnTheCpu) {
  const auto prompt = random_tokens(600, 256);
  const auto cpu = load_on(model_path(), "cpu");
  // Chunks that begin at aligned addresses and chunks that do not; and the large products of the CPU's
  // layers, which ggml does on the GPU.
  for (const auto& devices : {gpu(), gpu() + ",cpu"})
    for (int chunk : {512, 100}) {
      const auto model = load_on(model_path(), devices);
      Engine here(*cpu, {.chunk = chunk}), there(*model, {.chunk = chunk});
      for (const auto& [name, policy] : policies(8)) {
        SCOPED_TRACE(fmt::format("{} on {}, chunks of {}", name, devices, chunk));
        const auto expected = run(here, prompt, *policy);
        const auto got = run(there, prompt, *policy, 12, expected.tokens);
        EXPECT_EQ(got.lengths, expected.lengths);
        // With random weights some scores are as good as equal, and rounding decides. What follows is
        // compared with the same tokens kept.
        EXPECT_GT(overlap(expected, got), 0.85);
        Sequence sequence;
        here.prefill(sequence, prompt, *policy);
        const auto same = fixed_policy(kept_by_layer(sequence));
        EXPECT_LT(worst_error(run(there, prompt, *same, 12, expected.tokens), expected), 0.05);
      }
    }
}

TEST_F(Device, ATrainedModelSaysWhatItDoesOnTheCpu) {
  const auto policy = std::move(policies(6)[1].policy);
  for (const char* type : {"f16", "q8_0"}) {
    SCOPED_TRACE(type);
    const auto path = minilong_path(type);
    const auto cpu = load_on(path, "cpu"), gpu_model = load_on(path, gpu());
    const auto words = cpu->vocab().tokenize(data_text("sherlock.txt").substr(0, 4000));
    Engine here(*cpu), there(*gpu_model);
    const auto expected = run(here, words, *policy, 20);
    const auto got = run(there, words, *policy, 20, expected.tokens);
    EXPECT_EQ(got.lengths, expected.lengths);
    EXPECT_GT(overlap(expected, got), 0.9);
    int agree = 0;
    for (size_t i = 0; i < expected.logits.size(); ++i)
      agree += top(got.logits[i]) == top(expected.logits[i]) ? 1 : 0;
    EXPECT_GE(agree, 18);
  }
}

TEST_F(Device, QuantizedCachesOfRowsThatLieUnaligned) {
  const auto prompt = random_tokens(300, 256);
  const auto cpu = load_on(model_path(), "cpu"), model = load_on(model_path(), gpu());
  const auto policy = make_policy("streaming-llm", {Budget::percent(25), windows(2, Decider::kFirst)});
  // Of random weights; what is rounded before it is quantized takes another of 16 values here and there.
  for (auto [type, bound] : {std::pair{KvType::kQ8_0, 0.1}, {KvType::kQ4_0, 0.4}}) {
    SCOPED_TRACE(to_string(type));
    EngineOptions options;
    options.kv = {type, type};
    Engine here(*cpu, options), there(*model, options);
    const auto expected = run(here, prompt, *policy, 40);  // past the room reserved: the caches grow
    EXPECT_LT(worst_error(run(there, prompt, *policy, 40, expected.tokens), expected), bound);
    const auto plan = there.plan(300, *policy, 8);
    EXPECT_EQ(there.plan_pool(int64_t{1} << 30, 300, *policy, 8).sequence_bytes,
              plan.kv_kept + plan.kv_reserve);
  }
}

TEST_F(Device, ManyKnownTokensAtOnce) {
  const auto prompt = random_tokens(300, 256), tokens = random_tokens(90, 256, 2);
  // Policies that choose no rows by scores, which rounding would change.
  const auto streaming = make_policy("streaming-llm", {Budget::percent(25), windows(2, Decider::kFirst)});
  const auto full = full_policy();
  const auto model = load_on(model_path(), gpu());
  for (auto type : {KvType::kF16, KvType::kQ8_0})
    for (const auto* policy : {streaming.get(), full.get()}) {
      SCOPED_TRACE(to_string(type));
      EngineOptions options;
      options.chunk = 40;
      options.kv = {type, type};
      Engine engine(*model, options);
      Sequence sequence;
      engine.prefill(sequence, prompt, *policy);
      Outcome expected, got;
      for (auto token : tokens) {
        const auto logits = engine.decode(sequence, token);
        expected.logits.emplace_back(logits.begin(), logits.end());
      }
      sequence.rewind();
      engine.follow(sequence, tokens, [&](int64_t, std::span<const float> logits) {
        got.logits.emplace_back(logits.begin(), logits.end());
      });
      EXPECT_LT(worst_error(got, expected), type == KvType::kF16 ? 0.05 : 0.1);
    }
}

TEST_F(Device, EverythingOfALayerStaysThere) {
  const auto model = load_on(model_path(), gpu());
  const auto prompt = random_tokens(600, 256);
  for (const auto& [name, policy] : policies(8)) {
    SCOPED_TRACE(name);
    // The embeddings go there by chunks, and for each layer the numbers of the kept rows: a list or one a
    // head, and the slots.
    const auto traffic = prefill_traffic(*model, prompt, *policy, 100);
    EXPECT_LE(traffic.copies, 6 + 8 * 3);
    EXPECT_LE(traffic.bytes, 600 * 128 * 4 + 8 * 4096);
  }
}

TEST_F(Device, HasAllOperations) {
  const auto model = load_on(model_path(), gpu());
  const auto prompt = random_tokens(300, 256);
  for (const auto& [name, policy] : policies(8)) {
    SCOPED_TRACE(name);
    Engine engine(*model);
    Sequence sequence;
    engine.prefill(sequence, prompt, *policy);
    engine.decode(sequence, 1);
    EXPECT_EQ(engine.stray_operations(), std::set<std::string>{});
    // The token's embedding and the step's numbers.
    EXPECT_LE(engine.decode_traffic().copies, 2);
  }
}

}  // namespace
}  // namespace windowkv::test
