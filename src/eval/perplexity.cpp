#include "eval/perplexity.h"

#include <fmt/format.h>

#include <cmath>

#include "eval/fidelity.h"
#include "support/hash.h"
#include "windowkv/error.h"

namespace windowkv::eval {

using nlohmann::ordered_json;

namespace {

std::string key_of(const Contender& contender, const PerplexityDocument& document,
                   const PerplexityOptions& options) {
  const std::string_view ids(reinterpret_cast<const char*>(document.tokens.data()),
                             document.tokens.size() * sizeof(Token));
  return fmt::format("{}/{} {} {}", contender.name, document.name, fnv1a64(ids), options.setup);
}

PerplexityResult result_of_row(const ordered_json& row) {
  return {true, row.at("nll"), row.at("scored_tokens"), row.at("kept_share")};
}

/// Runs documents one after the other, and keeps count.
class Run {
 public:
  Run(Engine& engine, std::span<const Contender> contenders, const PerplexityOptions& options)
      : engine_(engine), contenders_(contenders), options_(options) {}

  std::vector<std::vector<PerplexityResult>> all(std::span<const PerplexityDocument> documents) {
    std::vector results(contenders_.size(), std::vector<PerplexityResult>(documents.size()));
    std::vector<std::vector<size_t>> missing(documents.size());  // contenders, by document
    for (size_t d = 0; d < documents.size(); ++d)
      for (size_t c = 0; c < contenders_.size(); ++c) {
        const auto* row = options_.log != nullptr
                              ? options_.log->find(key_of(contenders_[c], documents[d], options_))
                              : nullptr;
        if (row != nullptr)
          results[c][d] = read_row(*row, result_of_row);
        else
          missing[d].push_back(c), total_ += std::ssize(documents[d].tokens);
      }
    for (size_t d = 0; d < documents.size(); ++d) {
      if (missing[d].empty()) continue;
      try {
        if (options_.cancelled && options_.cancelled()) throw Cancelled();
        measure(documents[d], missing[d], [&](size_t c) -> PerplexityResult& { return results[c][d]; });
      } catch (const Cancelled&) {
        for (size_t later = d; later < documents.size(); ++later)
          for (auto& of_contender : results)
            if (!missing[later].empty()) of_contender[later] = {};
        break;
      }
    }
    return results;
  }

 private:
  template <typename ResultOf>
  void measure(const PerplexityDocument& document, std::span<const size_t> contenders, ResultOf&& result_of) {
    const auto tokens = std::span(document.tokens);
    const auto prompt = tokens.first(tokens.size() / 2);
    const auto rest = tokens.subspan(prompt.size());
    std::vector<std::unique_ptr<Policy>> policies;
    std::vector<const Policy*> all;
    for (size_t c : contenders) {
      const auto task = task_for(contenders_[c], options_.task, Task::kLocalization, document.text);
      all.push_back(policies.emplace_back(contenders_[c].make(task.task)).get());
    }
    PrefillOptions prefill;
    prefill.reserve = std::ssize(rest);
    prefill.cancelled = options_.cancelled;
    const auto share = std::ssize(contenders) * std::ssize(prompt);
    prefill.progress = [&](int64_t step, int64_t steps) {
      report(share * step / std::max<int64_t>(1, steps));
    };
    std::vector<Sequence> sequences(all.size());
    engine_.prefill(sequences, prompt, all, prefill);
    done_ += share;
    for (size_t i = 0; i < contenders.size(); ++i) {
      auto& result = result_of(contenders[i]);
      double sum = 0;
      // The last token's logits are of no token that is known.
      engine_.follow(sequences[i], rest.first(rest.size() - 1),
                     [&](int64_t index, std::span<const float> logits) {
                       if (options_.cancelled && options_.cancelled()) throw Cancelled();
                       sum -= log_probability(logits, rest[static_cast<size_t>(index) + 1]);
                     });
      const auto scored = std::ssize(rest) - 1;
      result = {true, sum / static_cast<double>(scored), scored,
                static_cast<double>(sequences[i].bytes.kept) / static_cast<double>(sequences[i].bytes.full)};
      sequences[i] = {};
      report(std::ssize(rest));
      done_ += std::ssize(rest);
      const auto& contender = contenders_[contenders[i]];
      if (options_.log != nullptr)
        options_.log->append({{"key", key_of(contender, document, options_)},
                              {"document", document.name},
                              {"policy", policy_in(contender.name)},
                              {"budget", contender.budget},
                              {"prompt_tokens", prompt.size()},
                              {"scored_tokens", result.tokens},
                              {"nll", result.nll},
                              {"kept_share", result.kept_share}});
    }
  }

  void report(int64_t now) const {
    if (options_.progress) options_.progress(done_ + now, total_);
  }

  Engine& engine_;
  std::span<const Contender> contenders_;
  const PerplexityOptions& options_;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

std::vector<PerplexityDocument> cut_documents(const Model& model, std::span<const std::string> names,
                                              std::span<const std::string> texts, int64_t length,
                                              int64_t limit) {
  if (length < 4) throw Error(fmt::format("documents of {} tokens; they must have 4 or more", length));
  const auto& vocab = model.vocab();
  std::vector<PerplexityDocument> documents;
  auto wanted = [&] { return limit < 0 || std::ssize(documents) < limit; };
  for (size_t t = 0; t < texts.size() && wanted(); ++t) {
    const auto start = vocab.tokenize("");  // BOS, where the model wants it before each
    auto all = vocab.tokenize(texts[t]);
    all.erase(all.begin(), all.begin() + std::ssize(start));
    const auto own = length - std::ssize(start);
    for (int64_t first = 0; first + own <= std::ssize(all) && wanted(); first += own) {
      auto& document = documents.emplace_back();
      document.name = fmt::format("{}:{}", names[t], first);
      document.tokens = start;
      document.tokens.insert(document.tokens.end(), all.begin() + first, all.begin() + first + own);
      document.text = vocab.text({document.tokens.begin(), document.tokens.begin() + length / 2});
    }
  }
  return documents;
}

std::vector<std::vector<PerplexityResult>> run_perplexity(Engine& engine,
                                                          std::span<const PerplexityDocument> documents,
                                                          std::span<const Contender> contenders,
                                                          const PerplexityOptions& options) {
  return Run(engine, contenders, options).all(documents);
}

std::vector<PerplexitySummary> summarize_perplexity(
    const std::vector<std::vector<PerplexityResult>>& results) {
  std::vector<PerplexitySummary> summaries;
  for (const auto& of_contender : results) {
    auto& s = summaries.emplace_back();
    std::vector<double> ours, theirs;
    double sum = 0;
    int64_t tokens = 0;
    for (size_t d = 0; d < of_contender.size(); ++d) {
      const auto& result = of_contender[d];
      if (!result.done) continue;
      ++s.documents;
      sum += result.nll * static_cast<double>(result.tokens);
      tokens += result.tokens;
      s.kept_share += result.kept_share;
      ours.push_back(result.nll);
      theirs.push_back(results.front()[d].nll);
    }
    if (s.documents == 0) continue;
    s.perplexity = std::exp(sum / static_cast<double>(tokens));
    s.kept_share /= static_cast<double>(s.documents);
    const auto difference = bootstrap_difference(ours, theirs);
    s.ratio = {std::exp(difference.mean), std::exp(difference.low), std::exp(difference.high)};
  }
  return summaries;
}

}  // namespace windowkv::eval
