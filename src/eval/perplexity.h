#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "eval/contender.h"
#include "eval/jsonl_log.h"
#include "eval/stats.h"
#include "windowkv/engine.h"

/// Perplexity of what follows a prompt, given what a policy keeps of the prompt.
namespace windowkv::eval {

struct PerplexityOptions {
  TaskChoice task = TaskChoice::parse("given");
  JsonlLog* log = nullptr;  ///< results it has are not made again
  std::string setup;        ///< all that changes a result beside document, policy and budget
  std::function<bool()> cancelled;
  std::function<void(int64_t done, int64_t total)> progress;
};

/// A text in a model's tokens: the first half is the prompt, the second half is scored.
struct PerplexityDocument {
  std::string name;
  std::string text;  ///< of the first half, from which the task is told
  std::vector<Token> tokens;
};

/// What a contender says of a document's second half.
struct PerplexityResult {
  bool done = false;
  double nll = 0;         ///< mean −log p of its tokens but the first, which follows all in any case; nats
  int64_t tokens = 0;     ///< scored
  double kept_share = 0;  ///< of what a cache of the first half holds where nothing is dropped that is seen
};

/// The texts cut into documents of `length` tokens each, at most `limit` of them (−1: all), in order; what is
/// left at the end of a text goes.
std::vector<PerplexityDocument> cut_documents(const Model& model, std::span<const std::string> names,
                                              std::span<const std::string> texts, int64_t length,
                                              int64_t limit);

/// Results [contender][document]. The contenders of a document share its prefill; what follows passes through
/// the model once for each. Where the options say `cancelled`, documents that are not finished are left
/// undone.
std::vector<std::vector<PerplexityResult>> run_perplexity(Engine& engine,
                                                          std::span<const PerplexityDocument> documents,
                                                          std::span<const Contender> contenders,
                                                          const PerplexityOptions& options);

struct PerplexitySummary {
  int64_t documents = 0;
  double perplexity = 0;  ///< exp of the mean −log p over all scored tokens
  Estimate ratio;  ///< to the first contender's: exp of the documents' mean difference, its 95 % interval
  double kept_share = 0;
};

/// By contender, over the documents that are done.
std::vector<PerplexitySummary> summarize_perplexity(
    const std::vector<std::vector<PerplexityResult>>& results);

}  // namespace windowkv::eval
