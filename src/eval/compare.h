#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "eval/contender.h"
#include "eval/fidelity.h"
#include "eval/jsonl_log.h"
#include "eval/longbench.h"
#include "eval/reference_file.h"
#include "eval/stats.h"

/// Policies side by side on the same samples: scores, fidelity to the full cache, kept bytes.
namespace windowkv::eval {

struct CompareOptions {
  TaskChoice task = TaskChoice::parse("given");  ///< what is given is the row's
  int64_t max_length = 0;                        ///< as sample_tokens takes it
  bool follow = false;  ///< fidelity alone: no other policy than full answers and is scored
  KvTypes store = PrefixStoreOptions().types;  ///< of the keys that policies choose from again
  JsonlLog* log = nullptr;  ///< a row a sample and contender; those it has are not run again
  std::string setup;        ///< tells runs under other settings apart; contenders need not be part of it
  ReferenceFile* reference = nullptr;  ///< the full cache's answers; those it has are not generated again
  std::function<bool()> cancelled;
  /// Work in contenders of samples; results of earlier runs are not part of it.
  std::function<void(int64_t done, int64_t total)> progress;
  std::function<void(const Sample& sample, const std::string& error)> failed;
};

/// What one contender made of one sample.
struct SampleResult {
  std::optional<double> score;  ///< 0 to 100; none where it was not asked to answer
  double kept_share = 0;        ///< KV bytes kept of those of the whole prompt
  int64_t kept_bytes = 0;       ///< KV bytes kept
  Fidelity fidelity;
  std::string text;
};

/// By sample, in the order given, each by contender; empty where a sample failed, or the run was cancelled
/// before. One prefill a sample serves all contenders that have not run on it. contenders[0] must be the full
/// policy: fidelity is measured along its answer.
std::vector<std::vector<SampleResult>> run_compare(Engine& engine, const Model& model,
                                                   std::span<const Sample> samples,
                                                   std::span<const Contender> contenders,
                                                   const CompareOptions& options);

/// One contender's line of the result.
struct ContenderResult {
  struct Scores {
    std::map<std::string, Estimate> by_dataset;
    Estimate overall;                         ///< mean of the samples
    Estimate over_full;                       ///< paired difference from the full cache
    std::optional<Estimate> over_best_rival;  ///< from the best other policy (not full) of the same budget
    std::string best_rival;
  };

  std::string name;
  std::string budget;
  double kept_share = 0;
  std::optional<Scores> scores;  ///< none where it answered nothing

  /// Means over the samples whose answers have two tokens or more.
  std::map<std::string, Estimate> kl_by_dataset;
  Estimate kl;
  Estimate top1_agreement;
  Estimate same_answer;  ///< share of the full cache's answers that are given whole
};

/// Means and 95 % bootstrap intervals over the samples that did not fail.
std::vector<ContenderResult> summarize_compare(std::span<const Sample> samples,
                                               std::span<const Contender> contenders,
                                               const std::vector<std::vector<SampleResult>>& measured);

}  // namespace windowkv::eval
