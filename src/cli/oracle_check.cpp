// windowkv oracle-check: the engine's own budgets, scoring graph and window choice against cases with known
// answers.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "backend/graph.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "policy/window_scores.h"
#include "support/file.h"
#include "windowkv/error.h"
#include "windowkv/policy.h"

namespace windowkv::cli {

namespace {

using Json = nlohmann::json;

constexpr double kTolerance = 1e-4;  // relative

/// heads × rows × dim nested lists as one run of floats.
std::vector<float> flatten(const Json& tensor) {
  std::vector<float> out;
  for (const auto& head : tensor)
    for (const auto& row : head)
      for (float x : row) out.push_back(x);
  return out;
}

/// Throws Error for sizes that ggml would end the process over.
void check_sizes(const Json& c) {
  for (const char* name : {"n", "layers", "heads", "kv_heads", "dim"}) {
    const int64_t size = c.at(name);
    if (size < 1 || size > 1 << 20) throw Error(fmt::format("{} of a case is {}", name, size));
  }
  if (c.at("heads").get<int64_t>() % c.at("kv_heads").get<int64_t>() != 0)
    throw Error("heads of a case is no multiple of its kv_heads");
}

struct GroupResult {
  std::vector<float> scores;
  std::vector<int32_t> picked;
};

/// What the graph answers for one group's Q [heads][alpha][dim] and K [kv_heads][n][dim].
GroupResult compute(const Backends& backends, Scheduler& scheduler, const Selector& selector,
                    const SelectionConfig& config, const Json& c, const Json& q, const Json& k, int layer) {
  const int64_t dim = c.at("dim");
  const int64_t n = c.at("n");
  Storage storage(backends, "the case", 2);
  auto* q_rows = storage.add(GGML_TYPE_F32, dim, selector.observation() * c.at("heads").get<int64_t>());
  auto* k_rows = storage.add(GGML_TYPE_F32, dim, n * c.at("kv_heads").get<int64_t>());
  storage.allocate(false);
  const auto q_values = flatten(q);
  const auto k_values = flatten(k);
  if (q_values.size() != static_cast<size_t>(ggml_nelements(q_rows)) ||
      k_values.size() != static_cast<size_t>(ggml_nelements(k_rows)))
    throw Error("q or k of a case do not have the sizes its fields say");
  ggml_backend_tensor_set(q_rows, q_values.data(), 0, ggml_nbytes(q_rows));
  ggml_backend_tensor_set(k_rows, k_values.data(), 0, ggml_nbytes(k_rows));

  Graph graph;
  auto* ctx = graph.ctx();
  LayerView view;
  view.layer = layer;
  view.q = ggml_reshape_3d(ctx, q_rows, dim, selector.observation(), c.at("heads"));
  view.k = ggml_reshape_3d(ctx, k_rows, dim, n, c.at("kv_heads"));
  view.scale = 1.0f / std::sqrt(static_cast<float>(dim));
  auto* scores = graph.output(build_window_scores(ctx, view, config, n - selector.observation()));
  auto* picked = graph.output(selector.build(ctx, std::span(&view, 1)));
  scheduler.run(graph);
  GroupResult result{std::vector<float>(static_cast<size_t>(ggml_nelements(scores))),
                     std::vector<int32_t>(static_cast<size_t>(ggml_nelements(picked)))};
  ggml_backend_tensor_get(scores, result.scores.data(), 0, ggml_nbytes(scores));
  ggml_backend_tensor_get(picked, result.picked.data(), 0, ggml_nbytes(picked));
  return result;
}

/// Whether the kept windows may differ: the scores around the cut are closer than the tolerance.
bool cut_is_close(std::vector<double> scores, size_t keep) {
  if (keep == 0 || keep >= scores.size()) return false;
  std::sort(scores.begin(), scores.end(), std::greater<>());
  return scores[keep - 1] - scores[keep] <= kTolerance * std::abs(scores[keep - 1]);
}

/// First difference between the engine and the case's answer; "" if there is none.
std::string check_case(const Backends& backends, Scheduler& scheduler, const Json& c, const Json& answer,
                       double& worst) {
  check_sizes(c);
  SelectionConfig config;
  config.omega = c.at("omega");
  config.alpha = c.at("alpha");
  config.p = c.at("p");
  config.gamma = c.at("gamma");
  config.lambda = c.at("lambda");
  config.pyramid = parse_pyramid(c.at("pyramid").get<std::string>());
  config.reference = c.at("preset") == "reference";
  const int layers = c.at("layers");
  const auto policy = make_policy("windowkv", {Budget::tokens(c.at("budget").get<int64_t>()), config});
  auto selector = policy->start({c.at("n"), layers, c.at("heads"), c.at("kv_heads"), c.at("dim")});

  std::vector<std::vector<int32_t>> tokens;
  std::vector<std::vector<float>> scores;
  const auto groups = make_groups(layers, config.gamma);
  for (size_t g = 0; g < groups.size(); ++g) {
    const int layer = groups[g].first_layer;
    GroupResult result;
    if (selector->decides(layer))
      result = compute(backends, scheduler, *selector, config, c, c.at("q").at(g), c.at("k").at(g), layer);
    tokens.push_back(selector->choose(layer, result.picked).front());
    scores.push_back(std::move(result.scores));
  }
  const auto chosen = selector->groups();
  if (answer.at("budgets").size() != chosen.size()) return "number of groups";
  for (size_t g = 0; g < chosen.size(); ++g) {
    if (answer.at("budgets").at(g) != chosen[g].budget)
      return fmt::format("budget of group {}: {}, expected {}", g, chosen[g].budget,
                         answer.at("budgets").at(g).get<int64_t>());
    std::vector<double> expected;
    if (const auto& s = answer.at("scores").at(g); !s.is_null()) expected = s.get<std::vector<double>>();
    if (!scores[g].empty()) {
      if (expected.size() != scores[g].size()) return fmt::format("number of scores of group {}", g);
      for (size_t w = 0; w < expected.size(); ++w) {
        const double error = std::abs(scores[g][w] - expected[w]) / std::max(std::abs(expected[w]), 1e-30);
        worst = std::max(worst, error);
        if (error > kTolerance)
          return fmt::format("score of window {} of group {}: {}, expected {}", w, g, scores[g][w],
                             expected[w]);
      }
    }
    const auto windows = answer.at("windows").at(g).get<std::vector<int32_t>>();
    if (windows.size() != chosen[g].windows.size())
      return fmt::format("windows of group {}: {} kept, expected {}", g, chosen[g].windows.size(),
                         windows.size());
    if (windows != chosen[g].windows && !cut_is_close(expected, windows.size()))
      return fmt::format("windows of group {} differ", g);
    if (windows == chosen[g].windows && answer.at("tokens").at(g).get<std::vector<int32_t>>() != tokens[g])
      return fmt::format("tokens of group {} differ", g);
  }
  return "";
}

void oracle_check(const std::string& path) {
  Json cases;
  try {
    cases = Json::parse(read_file(path));
    const Backends backends("cpu", 0);
    Scheduler scheduler(backends);
    int passed = 0;
    int failed = 0;
    double worst = 0;
    for (size_t i = 0; i < cases.size(); ++i) {
      const auto difference =
          check_case(backends, scheduler, cases.at(i).at("case"), cases.at(i).at("answer"), worst);
      if (difference.empty()) {
        ++passed;
      } else {
        ++failed;
        print(fmt::format("case {}: {}\n", i, difference));
      }
    }
    print(fmt::format("{} passed, {} failed\nlargest relative difference of a score: {:.1e}\n", passed,
                      failed, worst));
    if (failed > 0) throw ExitWith{1};
  } catch (const Json::exception&) {
    throw Error(
        fmt::format("{}: not a JSON list of selection cases, as in tests/vectors/selection.json", path));
  }
}

}  // namespace

void add_oracle_check(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  auto* command =
      app.add_subcommand("oracle-check", "Check the window selection against cases with known answers");
  command->add_option("file", *path, "JSON list of {\"case\", \"answer\"}, as tests/vectors/selection.json")
      ->required();
  command->callback([path] { oracle_check(*path); });
}

}  // namespace windowkv::cli
