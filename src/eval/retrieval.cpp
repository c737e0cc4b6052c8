#include "eval/retrieval.h"

#include <fmt/format.h>
#include <ggml.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "windowkv/error.h"
#include "windowkv/generate.h"
#include "windowkv/head_scores.h"

namespace windowkv::eval {

namespace {

/// Keeps next to nothing and writes down, layer by layer, the attention that the prompt's tokens receive from
/// the last `rows` tokens.
class Recorder final : public Policy {
 public:
  Recorder(AnswerAttention& out, int64_t rows) : out_(out), rows_(rows) {}
  std::string_view name() const override { return "recorder"; }
  std::unique_ptr<Selector> start(const PromptShape&) const override {
    return std::make_unique<Recording>(out_, rows_);
  }

 private:
  class Recording final : public Selector {
   public:
    Recording(AnswerAttention& out, int64_t rows) : out_(out), rows_(rows) {}
    int64_t observation() const override { return rows_; }
    int64_t capacity(int) const override { return 1; }
    bool decides(int) const override { return true; }
    /// The numbers of the attention itself, [tokens, n_head] F32: the engine hands bits on as they are.
    ggml_tensor* build(ggml_context* ctx, std::span<const LayerView> views) const override {
      return ggml_scale(ctx, build_observed_by_head(ctx, views.front(), out_.tokens),
                        1.0f / static_cast<float>(rows_));
    }
    KeptTokens choose(int, std::span<const int32_t> picked) override {
      std::vector<float> received(picked.size());
      std::transform(picked.begin(), picked.end(), received.begin(),
                     [](int32_t bits) { return std::bit_cast<float>(bits); });
      out_.layers.push_back(std::move(received));
      return {{0}};
    }
    std::vector<GroupSelection> groups() const override { return {}; }

   private:
    AnswerAttention& out_;
    int64_t rows_;
  };

  AnswerAttention& out_;
  int64_t rows_;
};

/// Tokens [first, last) are counted.
struct Counted {
  int64_t first = 0, last = 0;
};

Counted counted_tokens(int64_t n, std::span<const std::unique_ptr<Policy>> rules,
                       const RetrievalOptions& options) {
  int64_t sinks = options.sinks;
  int64_t recent = options.recent;
  for (const auto& rule : rules) {
    if (rule->config() == nullptr || !rule->budget()) continue;
    const auto always = always_kept(*rule->config(), n, rule->budget()->resolve(n));
    sinks = std::max(sinks, always.sinks);
    recent = std::max(recent, always.recent);
  }
  return {sinks, n - recent};
}

const std::vector<TokenRange>& kept_tokens(const Sequence& sequence, int layer, size_t kv_head) {
  const auto group = std::find_if(sequence.groups.begin(), sequence.groups.end(),
                                  [&](const GroupSelection& g) { return layer <= g.group.last_layer; });
  return group->kept_by_head.empty() ? group->kept : group->kept_by_head[kv_head];
}

double sum(std::span<const float> values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

/// What the counted tokens that were kept received.
double sum_kept(std::span<const float> received, const std::vector<TokenRange>& kept,
                const Counted& counted) {
  double total = 0;
  for (const auto& range : kept) {
    const auto first = std::max(range.first, counted.first);
    const auto last = std::min(range.second, counted.last);
    if (first < last)
      total += sum(received.subspan(static_cast<size_t>(first), static_cast<size_t>(last - first)));
  }
  return total;
}

double sum_best(std::span<const float> received, double part) {
  std::vector<float> best(received.begin(), received.end());
  const auto count = static_cast<size_t>(std::ceil(part * static_cast<double>(best.size()) - 1e-9));
  std::nth_element(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(count) - 1, best.end(),
                   std::greater<>());
  return sum(std::span(best).first(count));
}

/// Of no mass nothing is lost.
double share(double part, double mass) {
  return mass > 0 ? part / mass : 1.0;
}

LayerRetrieval measure_layer(const AnswerAttention& attention, int layer, std::span<const Sequence> kept,
                             size_t n_head_kv, const Counted& counted, double best) {
  const size_t heads = attention.heads();
  LayerRetrieval result;
  result.all.kept.assign(kept.size(), 0.0);
  for (size_t h = 0; h < heads; ++h) {
    const auto received = attention.head(static_cast<size_t>(layer), h);
    const auto middle = received.subspan(static_cast<size_t>(counted.first),
                                         static_cast<size_t>(counted.last - counted.first));
    Retrieval head{.mass = sum(middle), .concentration = 0, .kept = {}};
    head.concentration = share(sum_best(middle, best), head.mass);
    for (size_t r = 0; r < kept.size(); ++r) {
      const double part = sum_kept(received, kept_tokens(kept[r], layer, h / (heads / n_head_kv)), counted);
      head.kept.push_back(share(part, head.mass));
      result.all.kept[r] += part;
    }
    result.all.mass += head.mass;
    result.all.concentration += head.concentration / static_cast<double>(heads);
    result.heads.push_back(std::move(head));
  }
  for (auto& part : result.all.kept) part = share(part, result.all.mass);
  result.all.mass /= static_cast<double>(heads);
  return result;
}

void add(Retrieval& to, const Retrieval& other) {
  to.mass += other.mass;
  to.concentration += other.concentration;
  to.kept.resize(other.kept.size(), 0.0);
  for (size_t r = 0; r < to.kept.size(); ++r) to.kept[r] += other.kept[r];
}

void divide(Retrieval& by, int64_t prompts) {
  const auto count = static_cast<double>(prompts);
  by.mass /= count;
  by.concentration /= count;
  for (auto& part : by.kept) part /= count;
}

/// The measurement over all prompts, under way.
class Measurement {
 public:
  Measurement(Engine& engine, const Model& model, std::span<const Contender> rules,
              const RetrievalOptions& options)
      : engine_(engine), model_(model), rules_(rules), options_(options) {
    for (const auto& rule : rules) result_.rules.push_back(rule.name);
    result_.layers.resize(static_cast<size_t>(model.hparams().n_layer));
    for (auto& layer : result_.layers) layer.heads.resize(static_cast<size_t>(model.hparams().n_head));
  }

  RetrievalResult run(std::span<const RetrievalPrompt> prompts) {
    for (const auto& prompt : prompts) total_ += work(prompt);
    for (size_t i = 0; i < prompts.size(); ++i) {
      try {
        if (const auto why = measure(prompts[i]); !why.empty()) {
          if (prompts.size() == 1) throw Error("the prompt cannot be measured: " + why);
          if (options_.left_out) options_.left_out(i, why);
        }
      } catch (const Cancelled&) {
        if (result_.prompts == 0) throw;
        break;
      }
      done_ += work(prompts[i]);
    }
    if (result_.prompts == 0) throw Error("no prompt left to measure; give longer ones that ask something");
    for (auto& layer : result_.layers) {
      divide(layer.all, result_.prompts);
      for (auto& head : layer.heads) divide(head, result_.prompts);
    }
    return std::move(result_);
  }

 private:
  /// Progress counts tokens: two prefills of every prompt.
  static int64_t work(const RetrievalPrompt& prompt) {
    return 2 * static_cast<int64_t>(prompt.tokens.size());
  }

  PrefillOptions prefill_options(const RetrievalPrompt& prompt, int64_t before) const {
    PrefillOptions prefill;
    prefill.cancelled = options_.cancelled;
    if (options_.progress)
      prefill.progress = [this, before, half = work(prompt) / 2](int64_t done, int64_t total) {
        options_.progress(before + half * done / total, total_);
      };
    return prefill;
  }

  /// Adds one prompt to the result, or returns why it cannot be.
  std::string measure(const RetrievalPrompt& prompt) {
    std::vector<std::unique_ptr<Policy>> rules;
    for (const auto& rule : rules_) rules.push_back(rule.make(prompt.task));
    const auto n = static_cast<int64_t>(prompt.tokens.size());
    const auto counted = counted_tokens(n, rules, options_);
    if (counted.last <= counted.first)
      return fmt::format("all of its {} tokens are among those not counted (the first {} and the last {})", n,
                         counted.first, n - counted.last);

    rules.push_back(make_policy("full", {}));
    std::vector<Sequence> sequences(rules.size());
    const auto answer = this->answer(prompt, rules, sequences);
    if (answer.empty()) return "the full cache's answer is empty";
    sequences.pop_back();  // the full cache, no longer needed
    const auto attention =
        answer_attention(engine_, prompt.tokens, answer, prefill_options(prompt, done_ + n));
    ++result_.prompts;
    result_.prompt_tokens += n;
    result_.answer_tokens += static_cast<int64_t>(answer.size());
    const auto& hp = model_.hparams();
    for (int layer = 0; layer < hp.n_layer; ++layer) {
      const auto one = measure_layer(attention, layer, sequences, static_cast<size_t>(hp.n_head_kv), counted,
                                     options_.best);
      auto& sums = result_.layers[static_cast<size_t>(layer)];
      add(sums.all, one.all);
      for (size_t h = 0; h < one.heads.size(); ++h) add(sums.heads[h], one.heads[h]);
    }
    return "";
  }

  /// What the last of the policies, the full cache, answers, without the token that ends it. All are
  /// prefilled.
  std::vector<Token> answer(const RetrievalPrompt& prompt, std::span<const std::unique_ptr<Policy>> policies,
                            std::span<Sequence> sequences) {
    std::vector<const Policy*> all;
    for (const auto& policy : policies) all.push_back(policy.get());
    const auto logits = engine_.prefill(sequences, prompt.tokens, all, prefill_options(prompt, done_));
    GenerateOptions options;
    options.max_tokens = prompt.max_tokens;
    options.stop = prompt.stop;
    options.cancelled = options_.cancelled;
    auto generation =
        generate(engine_, model_.find_vocab(), sequences.back(), logits, prompt.tokens, options);
    if (generation.reason == StopReason::kCancelled) throw Cancelled();
    if (generation.reason != StopReason::kLength) generation.tokens.pop_back();
    return std::move(generation.tokens);
  }

  Engine& engine_;
  const Model& model_;
  std::span<const Contender> rules_;
  const RetrievalOptions& options_;
  int64_t done_ = 0, total_ = 0;
  RetrievalResult result_;
};

}  // namespace

AnswerAttention answer_attention(Engine& engine, std::span<const Token> prompt, std::span<const Token> answer,
                                 const PrefillOptions& options) {
  if (answer.empty()) throw Error("the answer is empty");
  std::vector<Token> tokens(prompt.begin(), prompt.end());
  tokens.insert(tokens.end(), answer.begin(), answer.end() - 1);
  AnswerAttention attention{.tokens = static_cast<int64_t>(prompt.size()), .layers = {}};
  const Recorder recorder(attention, static_cast<int64_t>(answer.size()));
  Sequence sequence;
  engine.prefill(sequence, tokens, recorder, options);
  return attention;
}

RetrievalResult measure_retrieval(Engine& engine, const Model& model,
                                  std::span<const RetrievalPrompt> prompts, std::span<const Contender> rules,
                                  const RetrievalOptions& options) {
  if (model.hparams().n_full_layers() < model.hparams().n_layer)
    throw Error("what layers know is not measured of models with sliding windows or recurrent layers");
  return Measurement(engine, model, rules, options).run(prompts);
}

nlohmann::ordered_json RetrievalResult::json() const {
  const auto figures = [&](const char* name, size_t number, const Retrieval& r) {
    nlohmann::ordered_json json = {{name, number}, {"mass", r.mass}, {"concentration", r.concentration}};
    for (size_t i = 0; i < rules.size(); ++i) json["kept"][rules[i]] = r.kept[i];
    return json;
  };
  nlohmann::ordered_json out = {
      {"prompts", prompts}, {"prompt_tokens", prompt_tokens}, {"answer_tokens", answer_tokens}};
  for (size_t l = 0; l < layers.size(); ++l) {
    auto layer = figures("layer", l, layers[l].all);
    for (size_t h = 0; h < layers[l].heads.size(); ++h)
      layer["heads"].push_back(figures("head", h, layers[l].heads[h]));
    out["layers"].push_back(std::move(layer));
  }
  return out;
}

}  // namespace windowkv::eval
