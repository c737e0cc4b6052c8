#include "eval/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/answer.h"
#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

using nlohmann::ordered_json;

std::string row_key(const Sample& sample, const CompareOptions& options) {
  return fmt::format("{}/{} {}", sample.dataset, sample.id, options.setup);
}

ordered_json to_json(std::span<const Contender> contenders, const std::vector<SampleResult>& measured) {
  auto rows = ordered_json::array();
  for (size_t i = 0; i < measured.size(); ++i) {
    const auto& m = measured[i];
    rows.push_back({{"policy", contenders[i].name},
                    {"score", m.score},
                    {"kept_share", m.kept_share},
                    {"kept_bytes", m.kept_bytes},
                    {"steps", m.fidelity.steps},
                    {"mean_kl", m.fidelity.mean_kl},
                    {"top1_agreement", m.fidelity.top1_agreement},
                    {"text", m.text}});
  }
  return rows;
}

std::vector<SampleResult> from_json(const ordered_json& rows) {
  std::vector<SampleResult> out;
  for (const auto& r : rows)
    out.push_back({r.at("score"),
                   r.at("kept_share"),
                   r.at("kept_bytes"),
                   {r.at("steps"), r.at("mean_kl"), r.at("top1_agreement")},
                   r.at("text")});
  return out;
}

std::vector<SampleResult> run_sample(Engine& engine, const Model& model, const Sample& sample,
                                     std::span<const Contender> contenders, const CompareOptions& options) {
  const auto prompt = sample_tokens(model, sample, options.max_length);
  std::vector<std::unique_ptr<Policy>> policies;
  for (const auto& contender : contenders)
    policies.push_back(contender.make(task_for(contender, options.task, sample.task, sample.prompt).task));
  auto generation = sample_generation(model.vocab(), sample);
  generation.cancelled = options.cancelled;
  auto prefill = prefill_shared(engine, prompt, policies, generation);
  const auto reference = reference_answer(engine, model.find_vocab(), prefill.sequences[0], prefill.logits,
                                          sample.max_new_tokens);
  std::vector<SampleResult> out;
  for (size_t i = 0; i < policies.size(); ++i) {
    const auto fidelity = measure_fidelity(engine, prefill.sequences[i], reference);
    auto answered = answer(engine, model, prompt, prefill, i, generation);
    out.push_back({score(sample, answered.text), answered.kept_share(), answered.kv.kept, fidelity,
                   std::move(answered.text)});
  }
  return out;
}

std::vector<double> scores_of(const std::vector<std::vector<SampleResult>>& measured, size_t contender) {
  std::vector<double> out;
  for (const auto& row : measured)
    if (!row.empty()) out.push_back(row[contender].score);
  return out;
}

}  // namespace

std::vector<std::vector<SampleResult>> run_compare(Engine& engine, const Model& model,
                                                   std::span<const Sample> samples,
                                                   std::span<const Contender> contenders,
                                                   const CompareOptions& options) {
  if (contenders.empty() || contenders[0].kv != "full") throw Error("the first policy compared must be full");
  std::vector<std::vector<SampleResult>> out(samples.size());
  for (size_t i = 0; i < samples.size(); ++i) {
    const auto& sample = samples[i];
    const auto key = row_key(sample, options);
    if (const auto* row = options.log != nullptr ? options.log->find(key) : nullptr) {
      out[i] = from_json(row->at("measured"));
      continue;
    }
    if (options.cancelled && options.cancelled()) break;
    try {
      out[i] = run_sample(engine, model, sample, contenders, options);
      if (options.log != nullptr)
        options.log->append({{"key", key},
                             {"task", to_string(options.task(sample.task, sample.prompt).task)},
                             {"measured", to_json(contenders, out[i])}});
    } catch (const Cancelled&) {
      break;
    } catch (const Error& e) {
      if (options.failed) options.failed(sample, e.what());
    }
    if (options.progress) options.progress(static_cast<int64_t>(i + 1), static_cast<int64_t>(samples.size()));
  }
  return out;
}

std::vector<ContenderResult> summarize_compare(std::span<const Sample> samples,
                                               std::span<const Contender> contenders,
                                               const std::vector<std::vector<SampleResult>>& measured) {
  std::vector<std::vector<double>> scores;
  std::vector<double> means;
  for (size_t c = 0; c < contenders.size(); ++c) {
    scores.push_back(scores_of(measured, c));
    means.push_back(mean(scores[c]));
  }
  std::vector<ContenderResult> results;
  for (size_t c = 0; c < contenders.size(); ++c) {
    ContenderResult r;
    r.name = contenders[c].name;
    r.budget = contenders[c].budget;
    r.overall = bootstrap_mean(scores[c]);
    r.over_full = bootstrap_difference(scores[c], scores[0]);
    std::map<std::string, std::vector<double>> by_dataset;
    std::vector<double> kept, kl, top1;
    for (size_t i = 0; i < samples.size(); ++i) {
      if (measured[i].empty()) continue;
      const auto& m = measured[i][c];
      by_dataset[samples[i].dataset].push_back(m.score);
      kept.push_back(m.kept_share);
      if (m.fidelity.steps == 0) continue;
      kl.push_back(m.fidelity.mean_kl);
      top1.push_back(m.fidelity.top1_agreement);
    }
    for (const auto& [dataset, values] : by_dataset) r.by_dataset[dataset] = bootstrap_mean(values);
    r.kept_share = mean(kept);
    r.mean_kl = mean(kl);
    r.top1_agreement = mean(top1);
    size_t best = 0;
    for (size_t o = 1; o < contenders.size(); ++o)
      if (o != c && c != 0 && contenders[o].budget == contenders[c].budget &&
          contenders[o].kv != contenders[c].kv && (best == 0 || means[o] > means[best]))
        best = o;
    if (best != 0) {
      r.best_rival = contenders[best].name;
      r.over_best_rival = bootstrap_difference(scores[c], scores[best]);
    }
    results.push_back(std::move(r));
  }
  return results;
}

}  // namespace windowkv::eval
