#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "eval/contender.h"
#include "eval/fidelity.h"
#include "eval/jsonl_log.h"
#include "eval/longbench.h"
#include "eval/stats.h"

/// Policies side by side on the same samples: scores, fidelity to the full cache, kept bytes.
namespace windowkv::eval {

struct CompareOptions {
  TaskChoice task = TaskChoice::parse("given");  ///< what is given is the row's
  int64_t max_length = 0;                        ///< as sample_tokens takes it
  JsonlLog* log = nullptr;                       ///< one row a sample; samples it has are not run again
  std::string setup;                             ///< tells runs under other settings apart
  std::function<bool()> cancelled;
  std::function<void(int64_t done, int64_t total)> progress;
  std::function<void(const Sample& sample, const std::string& error)> failed;
};

/// What one contender made of one sample.
struct SampleResult {
  double score = 0;        ///< 0 to 100
  double kept_share = 0;   ///< KV bytes kept of those of the whole prompt
  int64_t kept_bytes = 0;  ///< KV bytes kept
  Fidelity fidelity;
  std::string text;
};

/// By sample, in the order given, each by contender; empty where a sample failed, or the run was cancelled
/// before. One prefill a sample serves all contenders. contenders[0] must be the full policy: fidelity is
/// measured against it.
std::vector<std::vector<SampleResult>> run_compare(Engine& engine, const Model& model,
                                                   std::span<const Sample> samples,
                                                   std::span<const Contender> contenders,
                                                   const CompareOptions& options);

/// One contender's line of the result.
struct ContenderResult {
  std::string name;
  std::string budget;
  std::map<std::string, Estimate> by_dataset;
  Estimate overall;                         ///< mean of the samples
  Estimate over_full;                       ///< paired difference from the full cache
  std::optional<Estimate> over_best_rival;  ///< from the best other policy (not full) of the same budget
  std::string best_rival;
  double kept_share = 0;
  double mean_kl = 0;         ///< mean over the samples with two answer tokens or more
  double top1_agreement = 0;  ///< likewise
};

/// Means and 95 % bootstrap intervals over the samples that did not fail.
std::vector<ContenderResult> summarize_compare(std::span<const Sample> samples,
                                               std::span<const Contender> contenders,
                                               const std::vector<std::vector<SampleResult>>& measured);

}  // namespace windowkv::eval
