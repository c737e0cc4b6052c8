#include "eval/task_trainer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

/// A row as the trainer needs it.
struct Example {
  std::vector<Feature> features;
  bool aggregation = false;
  float weight = 1;
};

std::vector<Example> examples_of(std::span<const TaskRow> rows, const TrainOptions& options) {
  std::vector<Example> out;
  out.reserve(rows.size());
  for (const auto& row : rows) {
    if (out.size() % 256 == 0 && options.cancelled && options.cancelled()) throw Cancelled();
    out.push_back({extract_features(row.text), row.task == Task::kAggregation});
    if (options.progress)
      options.progress(static_cast<int64_t>(out.size()),
                       static_cast<int64_t>(rows.size()) * (options.epochs + 1));
  }
  return out;
}

std::map<std::string, std::vector<size_t>> rows_by_source(std::span<const TaskRow> rows) {
  std::map<std::string, std::vector<size_t>> out;
  for (size_t i = 0; i < rows.size(); ++i) out[rows[i].source].push_back(i);
  return out;
}

/// Features that several sources have in most of their rows: their wording. What a context happens to hold is
/// left out.
std::vector<bool> wording(const std::vector<Example>& examples,
                          const std::map<std::string, std::vector<size_t>>& sources,
                          const TrainOptions& options) {
  std::vector<int> found_in(kFeatureCount, 0);
  for (const auto& [name, rows] : sources) {
    std::map<uint32_t, size_t> counts;
    for (const auto row : rows)
      for (const auto& f : examples[row].features) ++counts[f.bucket];
    for (const auto& [bucket, count] : counts)
      if (static_cast<double>(count) >= options.template_share * static_cast<double>(rows.size()))
        ++found_in[bucket];
  }
  std::vector<bool> used(kFeatureCount);
  for (size_t i = 0; i < kFeatureCount; ++i) used[i] = found_in[i] >= options.template_sources;
  return used;
}

void keep_used(std::vector<Example>& examples, const std::vector<bool>& used, float length) {
  for (auto& e : examples) {
    std::erase_if(e.features, [&](const Feature& f) { return !used[f.bucket]; });
    float squares = 0;
    for (const auto& f : e.features) squares += f.value * f.value;
    for (auto& f : e.features) f.value *= length / std::sqrt(squares);
  }
}

void weigh(std::vector<Example>& examples, const std::map<std::string, std::vector<size_t>>& sources) {
  double sums[2] = {0, 0};
  for (const auto& [name, rows] : sources)
    for (const auto row : rows) {
      examples[row].weight = 1 / std::sqrt(static_cast<float>(rows.size()));
      sums[examples[row].aggregation ? 1 : 0] += static_cast<double>(examples[row].weight);
    }
  if (sums[0] == 0 || sums[1] == 0) throw Error("training needs prompts of both tasks");
  for (auto& e : examples)
    e.weight *= static_cast<float>(static_cast<double>(examples.size()) / 2 / sums[e.aggregation ? 1 : 0]);
}

/// std::shuffle, with the same result on every machine.
void shuffle(std::vector<size_t>& order, std::mt19937& random) {
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
}

}  // namespace

LinearTaskModel train_task_model(std::span<const TaskRow> rows, const TrainOptions& options) {
  const auto sources = rows_by_source(rows);
  auto examples = examples_of(rows, options);
  weigh(examples, sources);
  const auto used = wording(examples, sources, options);
  keep_used(examples, used, options.feature_scale);

  // AdaGrad (Duchi et al. 2011), its sums begun at 1 so that rare features take no great first step.
  std::vector<float> weights(kFeatureCount, 0), squares(kFeatureCount, 1);
  float bias = 0, bias_squares = 1;
  std::vector<size_t> order(examples.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::mt19937 random(options.seed);
  for (int epoch = 0; epoch < options.epochs; ++epoch) {
    shuffle(order, random);
    const float rate =
        options.rate * (1 - 0.9f * static_cast<float>(epoch) / static_cast<float>(options.epochs));
    for (const auto i : order) {
      const auto& e = examples[i];
      float z = bias;
      for (const auto& f : e.features) z += weights[f.bucket] * f.value;
      const auto error =
          static_cast<float>(sigmoid(static_cast<double>(z)) - (e.aggregation ? 1 : 0)) * e.weight;
      for (const auto& f : e.features) {
        const float gradient = error * f.value + options.l2 * weights[f.bucket];
        squares[f.bucket] += gradient * gradient;
        weights[f.bucket] -= rate * gradient / std::sqrt(squares[f.bucket]);
      }
      bias_squares += error * error;
      bias -= rate * error / std::sqrt(bias_squares);
    }
    if (options.cancelled && options.cancelled()) throw Cancelled();
    if (options.progress)
      options.progress(static_cast<int64_t>(examples.size()) * (epoch + 2),
                       static_cast<int64_t>(examples.size()) * (options.epochs + 1));
  }
  for (auto& w : weights) w *= options.feature_scale;
  return {weights, used, bias};
}

void calibrate(LinearTaskModel& model, std::span<const TaskRow> rows) {
  std::vector<std::pair<double, double>> points;  // logit, target
  for (const auto& row : rows)
    points.emplace_back(model.logit(extract_features(row.text)), row.task == Task::kAggregation ? 1.0 : 0.0);
  // Newton's method on the log loss of sigmoid(a·z + b), with a weak pull to a = 1, b = 0 for few rows; steps
  // that do not lower it are halved.
  const auto loss = [&](double a, double b) {
    double sum = ((a - 1) * (a - 1) + b * b) / 2;
    for (const auto& [z, target] : points) {
      const double x = (target > 0.5 ? 1 : -1) * (a * z + b);
      sum += x > 0 ? std::log1p(std::exp(-x)) : std::log1p(std::exp(x)) - x;
    }
    return sum;
  };
  constexpr int kSteps = 50, kHalvings = 60;
  double a = 1, b = 0;
  for (int step = 0; step < kSteps; ++step) {
    double ga = a - 1, gb = b, aa = 1, ab = 0, bb = 1;
    for (const auto& [z, target] : points) {
      const double p = sigmoid(a * z + b);
      const double v = p * (1 - p);
      ga += (p - target) * z, gb += p - target;
      aa += v * z * z, ab += v * z, bb += v;
    }
    const double det = aa * bb - ab * ab;
    double da = (bb * ga - ab * gb) / det, db = (aa * gb - ab * ga) / det;
    const double before = loss(a, b);
    for (int i = 0; i < kHalvings && !(loss(a - da, b - db) < before); ++i) da /= 2, db /= 2;
    a -= da, b -= db;
  }
  model.rescale(a, b);
}

}  // namespace windowkv::eval
