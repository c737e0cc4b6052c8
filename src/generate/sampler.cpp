#include "windowkv/sampler.h"

#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "windowkv/error.h"

namespace windowkv {

void SamplingOptions::validate() const {
  // As wide as the values: 0.01f is less than 0.01.
  auto check = [](const char* name, float value, float low, float high) {
    if (!(value >= low && value <= high))
      throw Error(fmt::format("{} is {:g}; it must be {} to {}", name, value, low, high));
  };
  check("temperature", temperature, 0, 100);
  check("top-k", static_cast<float>(top_k), -1, 1e9f);
  check("top-p", top_p, 0, 1);
  check("min-p", min_p, 0, 1);
  check("the length of the penalties' window", static_cast<float>(penalty_last_n), -1, 1e9f);
  check("the repeat penalty", repeat_penalty, 0.01f, 100);
  check("the frequency penalty", frequency_penalty, -100, 100);
  check("the presence penalty", presence_penalty, -100, 100);
}

/// libllama's samplers and what they work on.
struct Sampler::Chains {
  struct Free {
    void operator()(llama_sampler* s) const { llama_sampler_free(s); }
  };
  using Owned = std::unique_ptr<llama_sampler, Free>;

  Chains(const SamplingOptions& o, int n_vocab, std::span<const Token> prompt, const Vocab* vocab);
  Token sample(std::span<const float> logits);
  bool greedy() const { return !chain_ && !grammar_; }
  void fill_candidates(std::span<const float> logits);
  Token draw();
  bool allowed(Token token) const;

  Owned chain_;    // null: greedy without penalties
  Owned grammar_;  // null: any text
  std::vector<llama_token_data> candidates_;
};

Sampler::Chains::Chains(const SamplingOptions& o, int n_vocab, std::span<const Token> prompt,
                        const Vocab* vocab) {
  o.validate();
  if (!o.grammar.empty()) {
    if (vocab == nullptr) throw Error("a grammar needs the model's vocabulary, and the file has none");
    grammar_.reset(llama_sampler_init_grammar(vocab->handle(), o.grammar.c_str(), "root"));
    if (!grammar_) throw Error("the grammar cannot be read");
  }
  // libllama takes memory for all of them at once.
  constexpr int kMostReach = 1 << 20;
  const int reach = o.penalty_last_n < 0 ? kMostReach : std::min(o.penalty_last_n, kMostReach);
  const bool penalties =
      reach > 0 && (o.repeat_penalty != 1.0f || o.frequency_penalty != 0.0f || o.presence_penalty != 0.0f);
  if (o.temperature == 0.0f && !penalties && o.logit_bias.empty()) return;
  chain_.reset(llama_sampler_chain_init(llama_sampler_chain_default_params()));
  auto add = [&](llama_sampler* s) { llama_sampler_chain_add(chain_.get(), s); };
  if (!o.logit_bias.empty()) {
    std::vector<llama_logit_bias> biases;
    for (const auto& [token, bias] : o.logit_bias) biases.push_back({token, bias});
    add(llama_sampler_init_logit_bias(n_vocab, static_cast<int32_t>(biases.size()), biases.data()));
  }
  if (penalties)
    add(llama_sampler_init_penalties(n_vocab, reach, o.repeat_penalty, o.frequency_penalty,
                                     o.presence_penalty));
  if (o.temperature == 0.0f) {
    add(llama_sampler_init_greedy());
  } else {
    if (o.top_k > 0) add(llama_sampler_init_top_k(o.top_k));
    if (o.top_p < 1.0f) add(llama_sampler_init_top_p(o.top_p, 1));
    if (o.min_p > 0.0f) add(llama_sampler_init_min_p(o.min_p, 1));
    add(llama_sampler_init_temp(o.temperature));
    add(llama_sampler_init_dist(o.seed == 0xFFFFFFFFu ? std::random_device{}() : o.seed));
  }
  for (auto token : prompt.last(std::min(prompt.size(), static_cast<size_t>(reach))))
    llama_sampler_accept(chain_.get(), token);
}

void Sampler::Chains::fill_candidates(std::span<const float> logits) {
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) candidates_[i] = {static_cast<Token>(i), logits[i], 0.0f};
}

Token Sampler::Chains::draw() {
  if (!chain_) return std::ranges::max_element(candidates_, {}, &llama_token_data::logit)->id;
  llama_token_data_array array{candidates_.data(), candidates_.size(), -1, false};
  llama_sampler_apply(chain_.get(), &array);
  return array.data[array.selected].id;
}

bool Sampler::Chains::allowed(Token token) const {
  llama_token_data one{token, 0.0f, 0.0f};
  llama_token_data_array array{&one, 1, -1, false};
  llama_sampler_apply(grammar_.get(), &array);
  return std::isfinite(one.logit);
}

Token Sampler::Chains::sample(std::span<const float> logits) {
  if (greedy()) return static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  fill_candidates(logits);
  auto token = draw();
  // As in llama.cpp: asking the grammar about one token is cheap, and it is mostly right.
  if (grammar_ && !allowed(token)) {
    fill_candidates(logits);
    llama_token_data_array all{candidates_.data(), candidates_.size(), -1, false};
    llama_sampler_apply(grammar_.get(), &all);
    std::erase_if(candidates_, [](const auto& c) { return !std::isfinite(c.logit); });
    if (candidates_.empty()) throw Error("the grammar allows no token here");
    token = draw();
  }
  if (chain_) llama_sampler_accept(chain_.get(), token);
  if (grammar_) llama_sampler_accept(grammar_.get(), token);
  return token;
}

Sampler::Sampler(const SamplingOptions& options, int n_vocab, std::span<const Token> prompt,
                 const Vocab* vocab)
    : chains_(std::make_unique<Chains>(options, n_vocab, prompt, vocab)) {}
Sampler::~Sampler() = default;
Sampler::Sampler(Sampler&&) noexcept = default;
Sampler& Sampler::operator=(Sampler&&) noexcept = default;

Token Sampler::sample(std::span<const float> logits) {
  return chains_->sample(logits);
}

bool Sampler::greedy() const {
  return chains_->greedy();
}

}  // namespace windowkv
