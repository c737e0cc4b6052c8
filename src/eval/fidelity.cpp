#include "eval/fidelity.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>

#include "windowkv/generate.h"

namespace windowkv::eval {

namespace {

/// exp of x ≤ 0 to a few units in the last place, without branches, so that compilers vectorize it: an answer
/// takes n_vocab of them a token and policy.
float exp_below_0(float x) {
  constexpr float kRounder = 12582912.0f;  // 1.5·2²³: its last binary digit is 1
  x = std::max(x, -87.0f);
  const float n = (x * 1.44269504f + kRounder) - kRounder;
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;  // x − n·ln 2, in two parts
  float y = 1.9875691500e-4f;                                 // Cephes' expf
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  return y * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

/// The sum of value(i), in lanes that compilers vectorize.
template <typename F>
double sum_of(size_t count, F&& value) {
  constexpr size_t kLanes = 8;
  double lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += static_cast<double>(value(i + lane));
  double sum = 0;
  for (double lane : lanes) sum += lane;
  for (; i < count; ++i) sum += static_cast<double>(value(i));
  return sum;
}

struct Softmax {
  Token most_probable;
  float top;
  double log_sum;  ///< of exp(logit − top)
};

Softmax softmax_of(std::span<const float> logits) {
  const auto most = std::max_element(logits.begin(), logits.end());
  const float top = *most;
  return {static_cast<Token>(most - logits.begin()), top,
          std::log(sum_of(logits.size(), [&](size_t i) { return exp_below_0(logits[i] - top); }))};
}

/// Mean under p of log softmax.
double mean_log(std::span<const float> p, std::span<const float> logits, const Softmax& softmax) {
  const float top = softmax.top;
  return sum_of(p.size(), [&](size_t i) { return p[i] * (logits[i] - top); }) -
         softmax.log_sum * sum_of(p.size(), [&](size_t i) { return p[i]; });
}

/// The answer without its last token, which nothing follows.
std::span<const Token> fed(std::span<const Token> tokens) {
  return tokens.first(tokens.empty() ? 0 : tokens.size() - 1);
}

}  // namespace

double log_probability(std::span<const float> logits, Token token) {
  const auto softmax = softmax_of(logits);
  return static_cast<double>(logits[static_cast<size_t>(token)] - softmax.top) - softmax.log_sum;
}

ReferenceAnswer reference_along(Engine& engine, Sequence& sequence, std::vector<Token> answer) {
  ReferenceAnswer reference{std::move(answer), {}};
  reference.steps.reserve(fed(reference.tokens).size());
  engine.follow(sequence, fed(reference.tokens), [&](int64_t, std::span<const float> logits) {
    const auto softmax = softmax_of(logits);
    auto& step = reference.steps.emplace_back();
    step.most_probable = softmax.most_probable;
    step.p.resize(logits.size());
    const auto scale = static_cast<float>(std::exp(-softmax.log_sum));
    for (size_t i = 0; i < logits.size(); ++i) step.p[i] = exp_below_0(logits[i] - softmax.top) * scale;
    step.log_p = mean_log(step.p, logits, softmax);
  });
  sequence.rewind();
  return reference;
}

ReferenceAnswer reference_answer(Engine& engine, const Vocab* vocab, Sequence& sequence,
                                 std::span<const float> logits, int64_t max_tokens) {
  GenerateOptions options;
  options.max_tokens = max_tokens;
  auto answer = generate(engine, vocab, sequence, logits, {}, options).tokens;
  sequence.rewind();
  return reference_along(engine, sequence, std::move(answer));
}

Fidelity measure_fidelity(Engine& engine, Sequence& sequence, const ReferenceAnswer& reference) {
  Fidelity result;
  result.steps = static_cast<int64_t>(reference.steps.size());
  if (result.steps == 0) return result;
  int64_t agreed = 0;
  // Where tokens are dropped on the way, there is no way back.
  auto copy = sequence.eviction ? std::optional(engine.fork(sequence)) : std::nullopt;
  engine.follow(copy ? *copy : sequence, fed(reference.tokens),
                [&](int64_t index, std::span<const float> logits) {
                  const auto& step = reference.steps[static_cast<size_t>(index)];
                  const auto softmax = softmax_of(logits);
                  result.mean_kl += std::max(0.0, step.log_p - mean_log(step.p, logits, softmax));
                  agreed += softmax.most_probable == step.most_probable;
                });
  if (!copy) sequence.rewind();
  result.mean_kl /= static_cast<double>(result.steps);
  result.top1_agreement = static_cast<double>(agreed) / static_cast<double>(result.steps);
  return result;
}

}  // namespace windowkv::eval
