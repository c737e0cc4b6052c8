#include "eval/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/answer.h"
#include "support/hash.h"
#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

using nlohmann::ordered_json;

constexpr size_t kFull = 0;  // the full policy among the contenders

/// Fidelity alone has a row of its own, which a run with scores does not take up.
std::string row_key(const Sample& sample, const Contender& contender, bool scored,
                    const CompareOptions& options) {
  const auto all = fmt::format("{} | {} | {} | {}", options.setup, sample.max_new_tokens,
                               sample.answer_prefix, sample.prompt);
  return fmt::format("{}{}/{} {} {}", scored ? "" : "follow ", sample.dataset, sample.id, contender.name,
                     fnv1a64(all));
}

ordered_json to_json(const std::string& key, const Sample& sample, const Contender& contender, Task task,
                     const SampleResult& result) {
  ordered_json row = {{"key", key},
                      {"dataset", sample.dataset},
                      {"_id", sample.id},
                      {"policy", contender.name},
                      {"task", to_string(task)},
                      {"kept_share", result.kept_share},
                      {"kept_bytes", result.kept_bytes},
                      {"steps", result.fidelity.steps},
                      {"mean_kl", result.fidelity.mean_kl},
                      {"top1_agreement", result.fidelity.top1_agreement}};
  if (result.score) row.update({{"score", *result.score}, {"text", result.text}});
  return row;
}

SampleResult from_json(const ordered_json& row) {
  SampleResult result{std::nullopt,
                      row.at("kept_share"),
                      row.at("kept_bytes"),
                      {row.at("steps"), row.at("mean_kl"), row.at("top1_agreement")},
                      {}};
  if (row.contains("score")) {
    result.score = row.at("score").get<double>();
    result.text = row.at("text");
  }
  return result;
}

/// The contenders of one sample: those of earlier runs, and those to run.
class SampleRun {
 public:
  SampleRun(const Sample& sample, std::span<const Contender> contenders, const CompareOptions& options)
      : sample_(sample), contenders_(contenders), options_(options), results_(contenders.size()) {
    for (size_t c = 0; c < contenders.size(); ++c)
      if (const auto* row = earlier(c))
        results_[c] = read_row(*row, from_json);
      else
        missing_.push_back(c);
  }

  const std::vector<size_t>& missing() const { return missing_; }
  std::vector<SampleResult> results() && { return std::move(results_); }

  /// Runs the missing ones behind one prefill. `done` is called after each.
  void run(Engine& engine, const Model& model, const std::function<void()>& done) {
    const auto prompt = sample_tokens(model, sample_, options_.max_length);
    generation_ = sample_generation(model.vocab(), sample_);
    generation_.cancelled = options_.cancelled;
    // The full cache is what others are measured by.
    auto all = missing_;
    if (all.front() != kFull) all.insert(all.begin(), kFull);
    std::vector<Task> tasks;
    std::vector<std::unique_ptr<Policy>> policies;
    for (size_t c : all) {
      tasks.push_back(task_for(contenders_[c], options_.task, sample_.task, sample_.prompt).task);
      policies.push_back(contenders_[c].make(tasks.back()));
    }
    auto prefill = prefill_shared(engine, model, prompt, policies, generation_, {}, options_.store);
    auto answered = full_answer(engine, model, prompt, prefill);
    const bool others = all.back() != kFull;
    const auto reference =
        others ? reference_along(engine, prefill.sequences[kFull], answered.tokens) : ReferenceAnswer{};
    for (size_t i = 0; i < all.size(); ++i) {
      if (options_.cancelled && options_.cancelled()) throw Cancelled();
      const size_t c = all[i];
      if (c == kFull && missing_.front() != kFull) continue;
      auto& result = results_[c];
      result.kept_bytes = prefill.sequences[i].bytes.kept;
      result.kept_share =
          static_cast<double>(result.kept_bytes) / static_cast<double>(prefill.sequences[i].bytes.full);
      if (c == kFull) {
        result.fidelity = {static_cast<int64_t>(answered.tokens.size()) - 1, 0, 1};
        result.text = answered.text;
      } else {
        result.fidelity = measure_fidelity(engine, prefill.sequences[i], reference);
        if (scored(c)) result.text = answer(engine, model, prompt, prefill, i, generation_).text;
      }
      if (scored(c)) result.score = score(sample_, result.text);
      if (options_.log != nullptr)
        options_.log->append(to_json(key(c, scored(c)), sample_, contenders_[c], tasks[i], result));
      done();
    }
  }

 private:
  bool scored(size_t c) const { return c == kFull || !options_.follow; }
  std::string key(size_t c, bool with_score) const {
    return row_key(sample_, contenders_[c], with_score, options_);
  }

  /// The row of an earlier run that says what this one asks.
  const ordered_json* earlier(size_t c) const {
    if (options_.log == nullptr) return nullptr;
    const auto* row = options_.log->find(key(c, scored(c)));
    return row == nullptr && !scored(c) ? options_.log->find(key(c, true)) : row;
  }

  ReferenceFile::Answer full_answer(Engine& engine, const Model& model, std::span<const Token> prompt,
                                    SharedPrefill& prefill) const {
    if (options_.reference != nullptr)
      if (auto known = options_.reference->find(sample_, prompt)) return std::move(*known);
    auto answered = answer(engine, model, prompt, prefill, kFull, generation_);
    prefill.sequences[kFull].rewind();
    ReferenceFile::Answer out{std::move(answered.tokens), std::move(answered.text)};
    if (options_.reference != nullptr) options_.reference->add(sample_, prompt, out);
    return out;
  }

  const Sample& sample_;
  std::span<const Contender> contenders_;
  const CompareOptions& options_;
  GenerateOptions generation_;
  std::vector<SampleResult> results_;
  std::vector<size_t> missing_;
};

}  // namespace

std::vector<std::vector<SampleResult>> run_compare(Engine& engine, const Model& model,
                                                   std::span<const Sample> samples,
                                                   std::span<const Contender> contenders,
                                                   const CompareOptions& options) {
  if (contenders.empty() || contenders[kFull].kv != "full")
    throw Error("the first policy compared must be full");
  std::vector<SampleRun> runs;
  runs.reserve(samples.size());
  size_t done = 0, total = 0;
  for (const auto& sample : samples) total += runs.emplace_back(sample, contenders, options).missing().size();
  auto advance_to = [&](size_t now) {
    done = now;
    if (options.progress) options.progress(static_cast<int64_t>(done), static_cast<int64_t>(total));
  };
  std::vector<std::vector<SampleResult>> out(samples.size());
  for (size_t i = 0; i < samples.size(); ++i) {
    const size_t end = done + runs[i].missing().size();
    if (end > done) {
      if (options.cancelled && options.cancelled()) break;
      try {
        runs[i].run(engine, model, [&] { advance_to(done + 1); });
      } catch (const Cancelled&) {
        break;
      } catch (const LogError&) {
        throw;
      } catch (const Error& e) {
        if (options.failed) options.failed(samples[i], e.what());
        advance_to(end);
        continue;
      }
    }
    out[i] = std::move(runs[i]).results();
    if (options.follow)
      for (size_t c = 1; c < out[i].size(); ++c) out[i][c].score.reset();  // of a run that had scores
  }
  return out;
}

namespace {

/// Values of one contender, by sample and in all.
struct Values {
  std::vector<double> scores, kept, kl, top1, same;
  std::map<std::string, std::vector<double>> scores_by_dataset, kl_by_dataset;
};

Values values_of(std::span<const Sample> samples, const std::vector<std::vector<SampleResult>>& measured,
                 size_t contender) {
  Values v;
  for (size_t i = 0; i < samples.size(); ++i) {
    if (measured[i].empty()) continue;
    const auto& m = measured[i][contender];
    v.kept.push_back(m.kept_share);
    if (m.score) {
      v.scores.push_back(*m.score);
      v.scores_by_dataset[samples[i].dataset].push_back(*m.score);
    }
    if (m.fidelity.steps == 0) continue;
    v.kl.push_back(m.fidelity.mean_kl);
    v.kl_by_dataset[samples[i].dataset].push_back(m.fidelity.mean_kl);
    v.top1.push_back(m.fidelity.top1_agreement);
    v.same.push_back(m.fidelity.same_answer() ? 1 : 0);
  }
  return v;
}

std::map<std::string, Estimate> estimates(const std::map<std::string, std::vector<double>>& values) {
  std::map<std::string, Estimate> out;
  for (const auto& [name, list] : values) out[name] = bootstrap_mean(list);
  return out;
}

}  // namespace

std::vector<ContenderResult> summarize_compare(std::span<const Sample> samples,
                                               std::span<const Contender> contenders,
                                               const std::vector<std::vector<SampleResult>>& measured) {
  std::vector<Values> values;
  std::vector<double> means;
  for (size_t c = 0; c < contenders.size(); ++c) {
    values.push_back(values_of(samples, measured, c));
    means.push_back(mean(values[c].scores));
  }
  /// The best other policy of the same budget; the full one where there is none.
  auto best_rival = [&](size_t c) {
    size_t best = kFull;
    for (size_t o = 1; o < contenders.size(); ++o)
      if (o != c && c != kFull && !values[o].scores.empty() && contenders[o].budget == contenders[c].budget &&
          contenders[o].kv != contenders[c].kv && (best == kFull || means[o] > means[best]))
        best = o;
    return best;
  };
  std::vector<ContenderResult> results;
  for (size_t c = 0; c < contenders.size(); ++c) {
    const auto& v = values[c];
    ContenderResult r;
    r.name = contenders[c].name;
    r.budget = contenders[c].budget;
    r.kept_share = mean(v.kept);
    r.kl_by_dataset = estimates(v.kl_by_dataset);
    r.kl = bootstrap_mean(v.kl);
    r.top1_agreement = bootstrap_mean(v.top1);
    r.same_answer = bootstrap_mean(v.same);
    if (!v.scores.empty()) {
      r.scores = {estimates(v.scores_by_dataset), bootstrap_mean(v.scores),
                  bootstrap_difference(v.scores, values[kFull].scores), std::nullopt, ""};
      if (const size_t best = best_rival(c); best != kFull) {
        r.scores->best_rival = contenders[best].name;
        r.scores->over_best_rival = bootstrap_difference(v.scores, values[best].scores);
      }
    }
    results.push_back(std::move(r));
  }
  return results;
}

}  // namespace windowkv::eval
