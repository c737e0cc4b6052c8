// Layers over several devices, here two RPC servers on this machine: what comes out is what one device gives,
// what passes between them is little, and a server that is not there or dies is told in one line.
#include "backend/rpc.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>

#include "backend/backend.h"
#include "cache/kv_cache.h"
#include "support/files.h"
#include "support/models.h"
#include "support/outcomes.h"
#include "support/program.h"
#include "support/reference.h"
#include "windowkv/engine.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

TEST(Placement, LayersGoWhereTheirMiddleFalls) {
  const auto split = [](int n_layer, std::vector<double> shares) {
    std::vector<int> counts;
    const auto devices = split_layers(n_layer, shares);
    for (const auto& run : runs_of(devices, shares.size())) counts.push_back(run.count());
    return counts;
  };
  EXPECT_EQ(split(6, {1, 1}), (std::vector{3, 3}));
  EXPECT_EQ(split(7, {1, 1}), (std::vector{3, 4}));
  EXPECT_EQ(split(32, {24, 8}), (std::vector{24, 8}));
  EXPECT_EQ(split(32, {1, 1, 2}), (std::vector{8, 8, 16}));
  EXPECT_EQ(split(6, {0, 1, 0}), (std::vector{0, 6, 0}));
  EXPECT_EQ(split(2, {1, 1, 1}), (std::vector{1, 0, 1}));
  EXPECT_EQ(split(4, {100, 1}), (std::vector{4, 0}));
  EXPECT_EQ(runs_of(split_layers(5, std::vector{2.0, 3.0}), 2), (std::vector<LayerRun>{{0, 1}, {2, 4}}));
  EXPECT_EQ(to_string(LayerRun{2, 4}), "layers 2-4");
  EXPECT_EQ(to_string(LayerRun{3, 3}), "layer 3");
}

TEST(Placement, EverySplitCoversAllLayersInOrder) {
  std::mt19937 random(7);
  for (int i = 0; i < 500; ++i) {
    const int n_layer = 1 + static_cast<int>(random() % 80);
    std::vector<double> shares(1 + random() % 5);
    for (auto& share : shares) share = static_cast<double>(random() % 4);
    shares[random() % shares.size()] += 1;
    const auto devices = split_layers(n_layer, shares);
    ASSERT_EQ(devices.size(), static_cast<size_t>(n_layer));
    EXPECT_TRUE(std::ranges::is_sorted(devices));
    double sum = 0;
    for (double share : shares) sum += share;
    const auto runs = runs_of(devices, shares.size());
    for (size_t d = 0; d < shares.size(); ++d) {
      EXPECT_NEAR(runs[d].count(), n_layer * shares[d] / sum, 1.0);
      if (shares[d] == 0) {
        EXPECT_EQ(runs[d].count(), 0);
      }
    }
  }
}

TEST(Placement, JoinedLayersGoWhereTheMiddleOneIs) {
  const auto joined = [](int first, std::vector<double> shares) {
    auto devices = split_layers(8, shares);
    join_layers(devices, first);
    std::vector<int> counts;
    for (const auto& run : runs_of(devices, shares.size())) counts.push_back(run.count());
    return counts;
  };
  EXPECT_EQ(joined(4, {1, 1}), (std::vector{4, 4}));
  EXPECT_EQ(joined(4, {2, 6}), (std::vector{2, 6}));
  EXPECT_EQ(joined(4, {5, 3}), (std::vector{4, 4}));
  EXPECT_EQ(joined(4, {7, 1}), (std::vector{8, 0}));
  EXPECT_EQ(joined(3, {3, 1, 4}), (std::vector{3, 0, 5}));
  EXPECT_EQ(joined(0, {1, 1}), (std::vector{0, 8}));
  EXPECT_EQ(joined(8, {1, 1}), (std::vector{4, 4}));
}

TEST(Placement, SharesThatMakeNoSplitAreRefused) {
  for (const auto& shares : {std::vector<double>{0, 0}, {-1, 2}, {NAN}, {INFINITY, 1}})
    EXPECT_THROW(split_layers(4, shares), Error);
}

/// windowkv rpc-server at a free port of this machine.
class Server {
 public:
  Server()
      : address_(fmt::format("127.0.0.1:{}", free_port("127.0.0.1"))),
        program_("server-" + address_,
                 {WINDOWKV_COMMAND, "rpc-server", "-t", "1", "-p", address_.substr(address_.find(':') + 1)}) {
    if (!eventually([&] { return connects(); }, 20s)) ADD_FAILURE() << "no server: " << program_.err();
  }
  const std::string& address() const { return address_; }
  Program& program() { return program_; }

 private:
  bool connects() const;

  std::string address_;
  Program program_;
};

/// A TCP connection to a port of this machine; below 0 where nothing listens.
int connection(const std::string& address) {
  sockaddr_in place{};
  place.sin_family = AF_INET;
  place.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.find(':') + 1))));
  place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&place), sizeof place) == 0) return fd;
  close(fd);
  return -1;
}

bool Server::connects() const {
  const int fd = connection(address_);
  if (fd >= 0) close(fd);
  return fd >= 0;
}

/// F16: no kernel that the servers would choose otherwise.
std::string model_path() {
  return random_model_path("rpc", eight_layers());
}

/// Tests of servers; skipped where ggml's backend is not installed.
class Rpc : public testing::Test {
 protected:
  void SetUp() override {
    load_backends();
    if (ggml_backend_reg_by_name("RPC") == nullptr)
      GTEST_SKIP() << "ggml's RPC backend (libggml0-backend-rpc) is not installed";
    for (auto& server : servers_) server = std::make_unique<Server>();
  }

  std::vector<std::string> addresses() const { return {servers_[0]->address(), servers_[1]->address()}; }

  std::unique_ptr<Model> load_remote(const std::string& path, std::vector<double> split = {},
                                     const std::string& device = "auto") const {
    ModelOptions options;
    options.threads = 1;
    options.device = device;
    options.rpc = addresses();
    options.tensor_split = std::move(split);
    options.repack = false;
    return Model::load(path, options);
  }

  /// All of it on one server: with the same kernels, where this machine's processor has others.
  std::unique_ptr<Model> load_on_one(const std::string& path) const {
    return load_remote(path, {}, names()[0]);
  }

  /// What ggml calls the devices; it counts on through the process.
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& device : load_remote(model_path())->devices()) out.push_back(device.name());
    return out;
  }

  std::unique_ptr<Server> servers_[2];
};

std::vector<int> layer_counts(const Model& model) {
  std::vector<int> counts;
  for (const auto& device : model.devices()) counts.push_back(device.layers);
  return counts;
}

void expect_same(const Outcome& got, const Outcome& expected) {
  EXPECT_EQ(got.kept, expected.kept);
  EXPECT_EQ(got.kept_by_head, expected.kept_by_head);
  EXPECT_EQ(got.lengths, expected.lengths);
  ASSERT_EQ(got.tokens.size(), expected.tokens.size());
  EXPECT_EQ(got.bytes.kept, expected.bytes.kept);
  EXPECT_EQ(got.bytes.peak, expected.bytes.peak);
  // The same kernels on the same numbers in prefill; layers of this machine's decode by kernels of its own.
  for (size_t i = 0; i < expected.logits.size(); ++i) {
    if (i == 0) {
      EXPECT_EQ(got.logits[i], expected.logits[i]) << i;
      continue;
    }
    EXPECT_LT(relative_error(got.logits[i], expected.logits[i]), 0.1) << i;
    // Tokens that are equally probable to that much may differ, and with them what follows.
    if (i < expected.tokens.size() && got.tokens[i] != expected.tokens[i]) {
      EXPECT_GE(i, 8U);
      break;
    }
  }
}

TEST_F(Rpc, EveryPolicyKeepsAndSaysWhatItDoesOnOneDevice) {
  const auto prompt = random_tokens(600, 256);
  const auto local = load_on_one(model_path());
  EngineOptions options;
  options.chunk = 200;
  Engine engine(*local, options);
  const auto near = names()[0], far = names()[1];
  const struct {
    std::vector<double> split;
    std::string device;
    std::vector<int> layers;
  } placements[] = {{{}, "auto", {4, 4}},
                    {{3, 5}, "auto", {3, 5}},
                    {{1, 3}, far + ",cpu", {2, 6}},
                    {{2, 4, 2}, far + ",cpu," + near, {2, 4, 2}}};
  std::vector<Outcome> expected;
  for (const auto& [name, policy] : policies(8)) expected.push_back(run(engine, prompt, *policy));
  for (const auto& [split, device, layers] : placements) {
    SCOPED_TRACE(fmt::format("{} of {}", device, split.empty() ? 0 : split[0]));
    const auto remote = load_remote(model_path(), split, device);
    EXPECT_EQ(layer_counts(*remote), layers);
    Engine other(*remote, options);
    size_t i = 0;
    for (const auto& [name, policy] : policies(8)) {
      SCOPED_TRACE(name);
      expect_same(run(other, prompt, *policy), expected[i++]);
      const auto plan = other.plan(600, *policy);
      EXPECT_EQ(plan.peak_kv(), engine.plan(600, *policy).peak_kv());
      int64_t kept = 0;
      for (const auto& d : other.plan_devices(600, *policy)) kept += d.memory.kv_kept;
      EXPECT_EQ(kept, plan.kv_kept);
    }
  }
}

TEST_F(Rpc, LayersThatShareKeysAndValuesLieWithThoseTheyRead) {
  RandomModel m;
  m.family = "gemma4";
  m.type = GGML_TYPE_F32;
  m.n_layer = 9;
  m.shared_layers = 3;
  m.n_embd_layer = 24;
  m.window = 40;
  m.n_head_kv = 1;
  m.n_head_kv_window = 2;
  const auto path = random_model_path("shared", m);
  const auto prompt = random_tokens(300, 256), answer = random_tokens(60, 256, 2);
  const auto local = load_on_one(path);
  Engine engine(*local, {.chunk = 64});
  const struct {
    std::vector<double> split;
    std::vector<int> layers;
  } placements[] = {{{1, 1}, {4, 5}}, {{3, 6}, {3, 6}}, {{8, 1}, {9, 0}}};
  for (const auto& [split, layers] : placements) {
    SCOPED_TRACE(split[0]);
    const auto remote = load_remote(path, split);
    EXPECT_EQ(layer_counts(*remote), layers);
    Engine other(*remote, {.chunk = 64});
    const auto policy = make_policy("windowkv", {Budget::percent(25), windows(2, Decider::kFirst)});
    Sequence near, far;
    const auto first = engine.prefill(near, prompt, *policy);
    EXPECT_LT(relative_error(other.prefill(far, prompt, *policy), first), 2e-2);
    EXPECT_EQ(far.kept, near.kept);
    EXPECT_EQ(far.bytes.kept, near.bytes.kept);
    EXPECT_EQ(other.plan(300, *policy).peak_kv(), engine.plan(300, *policy).peak_kv());
    EXPECT_LT(compare(decoded_logits(other, far, answer), decoded_logits(engine, near, answer)).mean, 1e-2);
    // In proportion to the layers that have rows: of nine, six.
    const auto plan = other.plan_pool(int64_t{8} << 20, 300, *policy, 0);
    const auto pool = other.make_pool(plan.sequence_bytes + (1 << 16));
    PrefillOptions options;
    options.pool = pool;
    Sequence pooled;
    other.prefill(pooled, prompt, *policy, options);
    EXPECT_EQ(pooled.kept, near.kept);
  }
}

TEST_F(Rpc, WhatIsRepeatedOfAPromptIsScoredWhereTheLayerLies) {
  const auto prompt = random_tokens(200, 256);
  const auto policy = make_policy("kvzip", {Budget::percent(12), {}});
  const auto local = load_on_one(model_path());
  const auto remote = load_remote(model_path(), {3, 5});
  Engine engine(*local, {64}), other(*remote, {64});
  expect_same(run(other, prompt, *policy, 4), run(engine, prompt, *policy, 4));
  EXPECT_EQ(other.plan(200, *policy).peak_kv(), engine.plan(200, *policy).peak_kv());
}

// --n-cpu-moe: the experts' weights lie here, and answers are the same.
TEST_F(Rpc, ExpertsMayStayOnThisMachine) {
  RandomModel m;
  m.family = "qwen3moe";
  m.n_layer = 4;
  m.n_expert = 8;
  const auto path = random_model_path("rpc-experts", m);
  const auto prompt = random_tokens(300, 256);
  const auto policy = make_policy("windowkv", {Budget::percent(25), windows(2, Decider::kFirst)});
  const auto local = load_on_one(path);
  Engine engine(*local, {128});
  const auto expected = run(engine, prompt, *policy, 8);
  // "RPC0[127.0.0.1:50052] 0.8 MiB"
  const auto far_mib = [](const Model& model) {
    double sum = 0;
    for (const auto& buffer : model.buffers())
      if (buffer.starts_with("RPC")) sum += std::stod(buffer.substr(buffer.find(' ')));
    return sum;
  };
  double most = INFINITY;
  for (const int layers : {0, 2, INT_MAX}) {
    SCOPED_TRACE(layers);
    ModelOptions options;
    options.threads = 1;
    options.rpc = addresses();
    options.repack = false;
    options.cpu_experts = layers;
    const auto remote = Model::load(path, options);
    Engine other(*remote, {128});
    expect_same(run(other, prompt, *policy, 8), expected);
    const double far = far_mib(*remote);
    EXPECT_LT(far, most - 0.2);  // 0.4 MiB of experts in two layers
    most = far;
  }
}

/// Tokens that both keep, of all layers and KV heads, and those that the first keeps.
std::pair<int64_t, int64_t> shared(const Outcome& a, const Outcome& b) {
  std::pair<int64_t, int64_t> counts;
  for (size_t layer = 0; layer < a.kept_by_head.size(); ++layer)
    for (size_t head = 0; head < a.kept_by_head[layer].size(); ++head)
      for (const auto& mine : a.kept_by_head[layer][head]) {
        counts.second += mine.second - mine.first;
        for (const auto& other : b.kept_by_head[layer][head])
          counts.first +=
              std::max<int64_t>(0, std::min(mine.second, other.second) - std::max(mine.first, other.first));
      }
  return counts;
}

// A graph over the layers of several devices, the CPU among them, for which this process has functions. The
// draft is decoded by other kernels on servers, so that a token in a thousand may be another one.
TEST_F(Rpc, DraftsChooseOverAllDevices) {
  const auto prompt = random_tokens(300, 256);
  const auto policy = make_policy("laq", {Budget::percent(12), {}});
  const auto local = load_on_one(model_path());
  Engine engine(*local, {128});
  const auto expected = run(engine, prompt, *policy, 4);
  for (const auto& device : {std::string("auto"), names()[0] + ",cpu"}) {
    SCOPED_TRACE(device);
    const auto remote = load_remote(model_path(), {}, device);
    Engine other(*remote, {128});
    const auto got = run(other, prompt, *policy, 4);
    EXPECT_EQ(got.lengths, expected.lengths);
    const auto [same, all] = shared(got, expected);
    EXPECT_GT(all, 0);
    EXPECT_GE(same, all - all / 100);
  }
}

TEST_F(Rpc, QuantizedCachesAndWeights) {
  const auto prompt = random_tokens(500, 256);
  const auto policy = make_policy("windowkv", {Budget::percent(25), windows(2, Decider::kFirst)});
  for (auto type : {KvType::kQ8_0, KvType::kQ4_0, KvType::kBf16}) {
    SCOPED_TRACE(to_string(type));
    EngineOptions options;
    options.kv = {type, type};
    Outcome outcomes[2];
    for (bool far : {false, true}) {
      const auto model = far ? load_remote(model_path()) : load_on_one(model_path());
      Engine engine(*model, options);
      outcomes[far] = run(engine, prompt, *policy, 70);  // past the room reserved: the caches grow
    }
    expect_same(outcomes[1], outcomes[0]);
  }
  // A trained model with quantized weights.
  const auto path = minilong_path("q8_0");
  const auto words = load_on_one(path)->vocab().tokenize(data_text("sherlock.txt").substr(0, 3000));
  Outcome outcomes[2];
  for (bool far : {false, true}) {
    const auto model = far ? load_remote(path, {2, 1}) : load_on_one(path);
    Engine engine(*model);
    outcomes[far] = run(engine, words, *policies(6)[1].policy, 20);
  }
  EXPECT_EQ(outcomes[1].kept, outcomes[0].kept);
  EXPECT_EQ(outcomes[1].tokens, outcomes[0].tokens);
}

TEST_F(Rpc, ManyKnownTokensAtOnce) {
  const auto prompt = random_tokens(300, 256), tokens = random_tokens(90, 256, 2);
  const auto remote = load_remote(model_path(), {3, 5});
  Engine engine(*remote, {.chunk = 40});
  for (const auto& [name, policy] : policies(8)) {
    SCOPED_TRACE(name);
    Sequence sequence;
    engine.prefill(sequence, prompt, *policy);
    Logits expected, got;
    for (auto token : tokens) {
      const auto logits = engine.decode(sequence, token);
      expected.emplace_back(logits.begin(), logits.end());
    }
    sequence.rewind();
    engine.follow(sequence, tokens, [&](int64_t, std::span<const float> logits) {
      got.emplace_back(logits.begin(), logits.end());
    });
    const auto d = compare(got, expected);
    EXPECT_LT(d.mean, 1e-2);
    EXPECT_LT(d.worst, 3e-2);
  }
}

TEST_F(Rpc, BatchOfThreeInAPool) {
  // Pyramids give the first device's layers more rows than the second's, and gaps of other lengths.
  const auto policy_of = [](size_t i) {
    return i % 2 == 0 ? make_policy("pyramidkv", {Budget::percent(20), windows(1, Decider::kFirst)})
                      : windowkv_policy(Budget::percent(30), windows(2, Decider::kFirst));
  };
  const auto local = load_on_one(model_path());
  Engine alone(*local);
  const auto remote = load_remote(model_path());
  Engine engine(*remote);
  int64_t largest = 0;
  for (size_t i = 0; i < 2; ++i) {
    const auto plan = engine.plan(420, *policy_of(i), 40);
    const auto bytes = engine.plan_pool(0, 420, *policy_of(i), 40).sequence_bytes;
    EXPECT_GE(bytes, plan.kv_kept + plan.kv_reserve);
    largest = std::max(largest, bytes);
  }
  // Room for three, wherever the gaps are.
  const auto pool = engine.make_pool(5 * largest);
  EXPECT_TRUE(pool.fits(5 * largest));
  EXPECT_FALSE(pool.fits(6 * largest));

  struct Member {
    Sequence sequence;
    std::vector<Token> expected;
    size_t next = 0;
  };
  std::vector<std::unique_ptr<Member>> batch;
  auto join = [&](size_t i) {
    const auto prompt = random_tokens(300 + 40 * static_cast<int64_t>(i % 4), 256, i + 1);
    auto member = std::make_unique<Member>();
    member->expected = run(alone, prompt, *policy_of(i), 30).tokens;
    PrefillOptions options;
    options.reserve = 40;
    options.pool = pool;
    const auto logits = engine.prefill(member->sequence, prompt, *policy_of(i), options);
    EXPECT_EQ(top(logits), member->expected[0]);
    batch.push_back(std::move(member));
  };
  auto decode = [&](int steps) {
    for (int s = 0; s < steps; ++s) {
      std::vector<Step> step;
      for (auto& m : batch) step.push_back({&m->sequence, m->expected[m->next]});
      const auto ids = engine.decode_greedy(step);
      for (size_t i = 0; i < batch.size(); ++i) EXPECT_EQ(ids[i], batch[i]->expected[++batch[i]->next]) << i;
    }
  };
  for (size_t i = 0; i < 3; ++i) join(i);
  decode(8);
  // Those that join take the places of those that left, on one device in another order than on the other.
  for (size_t i = 3; i < 8; ++i) {
    batch.erase(batch.begin() + static_cast<std::ptrdiff_t>(i % 3));
    join(i);
    decode(3);
  }
  batch.clear();
  EXPECT_EQ(pool.free_bytes(), pool.bytes());
  try {
    engine.make_pool(int64_t{1} << 60);
    ADD_FAILURE() << "a pool of 2^60 bytes";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(addresses()[0] + "), layers 0-3"), std::string::npos) << e.what();
  }
}

TEST_F(Rpc, PromptsThatShareChunks) {
  const auto local = load_on_one(model_path());
  const auto remote = load_remote(model_path());
  std::vector<float> logits[2];
  std::vector<Token> tokens[2];
  for (bool far : {false, true}) {
    Engine engine(far ? *remote : *local);
    std::vector<std::vector<Token>> prompts;
    for (size_t i = 0; i < 5; ++i)
      prompts.push_back(random_tokens(20 + 90 * static_cast<int64_t>(i), 256, i));
    const auto all = policies(8);
    std::vector<Sequence> sequences(prompts.size());
    std::vector<PrefillRequest> requests;
    for (size_t i = 0; i < prompts.size(); ++i)
      requests.push_back({&sequences[i], prompts[i], all[i].policy.get()});
    const auto last = engine.prefill(requests);
    logits[far].assign(last.begin(), last.end());
    std::vector<Step> steps;
    for (auto& sequence : sequences) steps.push_back({&sequence, 7});
    for (int i = 0; i < 5; ++i) {
      const auto ids = engine.decode_greedy(steps);
      tokens[far].insert(tokens[far].end(), ids.begin(), ids.end());
      for (size_t s = 0; s < steps.size(); ++s) steps[s].token = ids[s];
    }
  }
  EXPECT_EQ(logits[1], logits[0]);
  EXPECT_EQ(tokens[1], tokens[0]);
}

TEST_F(Rpc, HiddenStatesMoveOnceABoundary) {
  const auto model = load_remote(model_path());
  EngineOptions options;
  options.chunk = 100;
  Engine engine(*model, options);
  const auto prompt = random_tokens(600, 256);
  Sequence sequence;
  const auto logits = engine.prefill(sequence, prompt, *full_policy());
  const std::vector<float> far(logits.begin(), logits.end());
  // The embeddings of six chunks from the CPU to the first server, all hidden states to the second.
  const auto prefill = engine.prefill_traffic();
  EXPECT_EQ(prefill.copies, 6 + 1);
  EXPECT_EQ(prefill.bytes, 2 * 600 * 128 * 4);
  // A token: its embedding and hidden state, and for each server the numbers of its step.
  engine.decode(sequence, 1);
  const auto decode = engine.decode_traffic();
  EXPECT_EQ(decode.graphs, 1);
  EXPECT_EQ(decode.splits, 3);
  EXPECT_EQ(decode.copies, 4);
  const auto local = load(model_path());
  Engine one(*local);
  Sequence other;
  const auto near = one.prefill(other, prompt, *full_policy());
  EXPECT_EQ(one.prefill_traffic().graphs, 0);
  EXPECT_LT(relative_error(far, near), 1e-2);
}

TEST_F(Rpc, SelectionStaysWithItsLayer) {
  const auto model = load_remote(model_path());
  const auto prompt = random_tokens(600, 256);
  for (const auto& [name, policy] : policies(8)) {
    SCOPED_TRACE(name);
    // Beside what a full cache takes, the numbers of the kept rows for each layer: one list or two, and
    // slots.
    const auto traffic = prefill_traffic(*model, prompt, *policy, 100);
    EXPECT_LE(traffic.copies, 6 + 1 + 3 * 8);
    EXPECT_LE(traffic.bytes, 2 * 600 * 128 * 4 + 8 * 4096);
  }
}

TEST_F(Rpc, ConnectionsAskWhetherTheOtherSideIsThere) {
  const auto model = load_remote(model_path());
  // /proc/net/tcp (proc(5)): addresses in hexadecimal, state 01 for a connection; timer 02 is keepalive's,
  // which waits while something sent is on its way.
  const auto kept_alive = [](const std::string& address) {
    std::ifstream table("/proc/net/tcp");
    for (std::string line; std::getline(table, line);) {
      std::istringstream fields(line);
      std::string number, local, remote, state, queues, timer;
      fields >> number >> local >> remote >> state >> queues >> timer;
      if (state == "01" && timer.starts_with("02:") &&
          remote == fmt::format("0100007F:{:04X}", std::stoi(address.substr(address.find(':') + 1))))
        return true;
    }
    return false;
  };
  for (const auto& address : addresses())
    EXPECT_TRUE(eventually([&] { return kept_alive(address); }, 5s)) << address;
}

TEST_F(Rpc, DevicesThatMakeNoSenseAreRefused) {
  const auto expect_refused = [&](const std::vector<double>& split, const std::string& device,
                                  const std::string& part) {
    try {
      load_remote(model_path(), split, device);
      ADD_FAILURE() << part;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  };
  expect_refused({1, 1, 1}, "auto", "3 shares, but there are only 2 devices");
  expect_refused({0, 0}, "auto", "no device has a share");
  expect_refused({}, "cpu", "names no device of the RPC servers");
  const auto device = names()[0];
  expect_refused({}, device + "," + device, "listed twice");
  expect_refused({}, "RPC999", "no device \"RPC999\"; ggml has: " + device + ", " + names()[1]);
  ModelOptions options;
  for (const char* text : {"127.0.0.1", ":50052", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:70000", "a:b:1"}) {
    options.rpc = {text};
    EXPECT_THROW(Model::load(model_path(), options), Error) << text;
  }
  options.rpc = {addresses()[0], addresses()[0]};
  EXPECT_THROW(Model::load(model_path(), options), Error);
}

/// Something that listens, says `answer` to the first that connects, and hangs up.
class Impostor {
 public:
  explicit Impostor(std::string answer) : fd_(socket(AF_INET, SOCK_STREAM, 0)), answer_(std::move(answer)) {
    sockaddr_in place{};
    place.sin_family = AF_INET;
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof place;
    if (bind(fd_, reinterpret_cast<const sockaddr*>(&place), size) != 0 || listen(fd_, 4) != 0 ||
        getsockname(fd_, reinterpret_cast<sockaddr*>(&place), &size) != 0)
      ADD_FAILURE() << "no listening socket";
    address_ = fmt::format("127.0.0.1:{}", ntohs(place.sin_port));
    thread_ = std::jthread([this] {
      const int client = accept(fd_, nullptr, nullptr);
      if (client < 0) return;
      char buffer[64];
      if (recv(client, buffer, sizeof buffer, 0) > 0)
        send(client, answer_.data(), answer_.size(), MSG_NOSIGNAL);
      close(client);
    });
  }
  ~Impostor() {
    shutdown(fd_, SHUT_RDWR);
    if (thread_.joinable()) thread_.join();
    close(fd_);
  }
  Impostor(const Impostor&) = delete;
  Impostor& operator=(const Impostor&) = delete;
  const std::string& address() const { return address_; }

 private:
  int fd_;
  std::string answer_;
  std::string address_;
  std::jthread thread_;
};

void expect_no_server(const std::string& address, const std::string& part) {
  ModelOptions options;
  options.rpc = {address};
  const auto start = std::chrono::steady_clock::now();
  try {
    Model::load(model_path(), options);
    ADD_FAILURE() << part;
  } catch (const Error& e) {
    const std::string text = e.what();
    EXPECT_NE(text.find("RPC server " + address), std::string::npos) << text;
    EXPECT_NE(text.find(part), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
}

TEST_F(Rpc, WhatAnswersWronglyIsToldBeforeAnyWork) {
  expect_no_server(fmt::format("127.0.0.1:{}", free_port("127.0.0.1")), "Connection refused");
  // The length of the answer, then version 3.5.1 and capabilities, as ggml-rpc.cpp has it.
  std::string answer("\x1c\0\0\0\0\0\0\0\x03\x05\x01\0", 12);
  answer.resize(36);
  const Impostor old(answer);
  expect_no_server(old.address(), "version 3.5.1");
  const Impostor web("HTTP");
  expect_no_server(web.address(), "closed the connection");
  // One that serves somebody else.
  const int other = connection(addresses()[0]);
  expect_no_server(addresses()[0], "busy");
  close(other);
}

/// windowkv run over the servers, with a trace to write.
class Client {
 public:
  Client(const std::vector<std::string>& servers, std::vector<std::string> more)
      : trace_(temp_path("trace.json")), program_("client", arguments(servers, std::move(more))) {}

  Program& program() { return program_; }

  /// Kills the server and expects the client to end with one line that names it, and to leave no file.
  void expect_told_of(Server& server) {
    server.program().send(SIGKILL);
    const auto code = program_.wait(20s);
    ASSERT_TRUE(code) << "hangs";
    EXPECT_EQ(*code, 1);
    EXPECT_EQ(program_.err(), fmt::format("windowkv: lost RPC server {}: it stopped, or sent an invalid "
                                          "reply; restart it and repeat the command\n",
                                          server.address()));
    const auto folder = std::filesystem::path(trace_).parent_path();
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      EXPECT_EQ(entry.path().filename().string().find("trace.json"), std::string::npos) << entry.path();
  }

 private:
  std::vector<std::string> arguments(const std::vector<std::string>& servers, std::vector<std::string> more) {
    std::vector<std::string> all = {WINDOWKV_COMMAND,
                                    "run",
                                    "-q",
                                    "-t",
                                    "1",
                                    "--trace",
                                    trace_,
                                    "--rpc",
                                    fmt::format("{},{}", servers[0], servers[1])};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  std::string trace_;
  Program program_;
};

/// A model slow enough to be met at work.
std::string slow_path() {
  RandomModel m;
  m.n_layer = 4;
  m.n_embd = 512;
  m.n_head = 8;
  m.n_head_kv = 8;
  m.d_head = 64;
  m.n_ff = 2048;
  m.n_ctx = 1 << 20;
  return random_model_path("slow", m);
}

std::string tokens_file(int64_t count) {
  const auto path = temp_path("prompt.json");
  const auto text = fmt::format("[{}]", fmt::join(random_tokens(count, 256), ","));
  write_bytes("prompt.json", {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  return path;
}

TEST_F(Rpc, ServerThatDiesDuringAPrompt) {
  const double before = servers_[0]->program().cpu_seconds();  // its start, which a sanitizer makes long
  Client client(addresses(), {"-m", slow_path(), "--tokens", tokens_file(20000), "-n", "4"});
  // Past the weights, which take it no time: at work on the prompt.
  ASSERT_TRUE(eventually([&] { return servers_[0]->program().cpu_seconds() > before + 0.5; }, 30s))
      << client.program().err();
  client.expect_told_of(*servers_[0]);
}

TEST_F(Rpc, ServerThatDiesWhileTokensAreMade) {
  Client client(addresses(), {"-m", minilong_path("q8_0"), "-p", "Once", "-n", "8000", "--ignore-eos"});
  ASSERT_TRUE(eventually([&] { return client.program().out().size() > 100; }, 30s)) << client.program().err();
  client.expect_told_of(*servers_[1]);
}

TEST_F(Rpc, ServerOutlivesClientsThatDie) {
  {
    Client client(addresses(), {"-m", minilong_path("q8_0"), "-p", "Once", "-n", "8000", "--ignore-eos"});
    ASSERT_TRUE(eventually([&] { return client.program().out().size() > 100; }, 30s))
        << client.program().err();
    // Asleep while its client goes, it wakes to answer nobody.
    for (auto& server : servers_) server->program().send(SIGSTOP);
  }
  for (auto& server : servers_) server->program().send(SIGCONT);
  EXPECT_EQ(layer_counts(*load_remote(model_path())), (std::vector{4, 4}));
}

TEST_F(Rpc, ServerThatIsNotThere) {
  const auto address = servers_[1]->address();
  servers_[1]->program().send(SIGTERM);
  EXPECT_EQ(servers_[1]->program().wait(10s), 0);
  Client client({servers_[0]->address(), address}, {"-m", minilong_path("q8_0"), "-p", "Once"});
  EXPECT_EQ(client.program().wait(10s), 1);
  EXPECT_EQ(
      client.program().err(),
      fmt::format("windowkv: RPC server {}: Connection refused; start one there with windowkv rpc-server\n",
                  address));
}

TEST_F(Rpc, ServerCommand) {
  const auto& address = servers_[0]->address();
  Program second("second", {WINDOWKV_COMMAND, "rpc-server", "-p", address.substr(address.find(':') + 1)});
  EXPECT_EQ(second.wait(10s), 1);
  EXPECT_EQ(second.err(), fmt::format("windowkv: cannot listen at {}: Address already in use\n", address));
  // The one it would have displaced still serves, one client after another.
  for (int i = 0; i < 2; ++i) EXPECT_EQ(layer_counts(*load_remote(model_path())), (std::vector{4, 4}));
  servers_[0]->program().send(SIGINT);
  EXPECT_EQ(servers_[0]->program().wait(10s), 0);
  EXPECT_NE(servers_[0]->program().out().find(address), std::string::npos) << servers_[0]->program().out();
  EXPECT_NE(servers_[0]->program().err().find("never expose it to an open network"), std::string::npos);
}

}  // namespace
}  // namespace windowkv::test
