#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/contender.h"
#include "eval/jsonl_log.h"
#include "eval/longbench.h"
#include "eval/needles.h"
#include "eval/prompt_form.h"
#include "eval/stats.h"
#include "windowkv/engine.h"

/// Needle in a haystack (Kamradt, github.com/gkamradt/LLMTest_NeedleInAHaystack): one sentence hidden in a
/// long text, asked for at the end. Scored as the SnapKV and WindowKV papers do, by ROUGE-1, and by exact
/// match.
namespace windowkv::eval {

/// Byte offset at which a needle for that depth (0 to 100) goes in: 0 and the end of the text for 0 and 100,
/// else the end of a sentence or paragraph that is nearest, or 0. (Kamradt backs up to a period; a novel's
/// long sentences would make that a tenth of a short prompt.)
size_t needle_place(std::string_view text, double depth);

/// Whether the answer contains what is expected; case and the kind of whitespace do not matter.
bool needle_found(std::string_view answer, std::string_view expected);

struct NiahPrompt {
  Needle needle;
  std::vector<Token> tokens;
  std::string text;             ///< what was tokenized
  int64_t needle_position = 0;  ///< tokens before the needle
};

/// Makes prompts of an exact length out of one haystack, set of needles and prompt form.
class NiahPrompts {
 public:
  /// `chat`: the model's template around "{text}\n\nQuestion: {question}"; else "{text}\n\nQuestion:
  /// {question}\nAnswer:". Throws Error for a haystack that is empty.
  NiahPrompts(const Vocab& vocab, const std::string& haystack, NeedleSource needles, bool chat);

  /// A prompt of at most the point's length and as few tokens under it as whole words allow. The haystack
  /// starts at its beginning for seed 0, else at a sentence that the seed decides, and starts over where it
  /// ends. Throws Error where the needle and the question alone are longer, the needle has an empty part, or
  /// the haystack holds it already.
  NiahPrompt make(const NiahPoint& point) const;

  bool chat() const { return chat_; }

 private:
  NiahPrompt build(const Needle& needle, std::string_view text, double depth) const;
  std::string haystack_from(size_t start, size_t bytes) const;
  size_t start_of(uint64_t seed) const;

  const Vocab& vocab_;
  std::string haystack_;
  NeedleSource needles_;
  bool chat_;
  PromptForm form_;  // around the text and the question
};

struct NiahGrid {
  std::vector<int64_t> lengths;
  std::vector<double> depths;
  std::vector<uint64_t> seeds;
  std::vector<NiahPoint> points() const;
};

/// What one policy made of one point.
struct NiahCell {
  std::string answer;
  std::string expected;
  double rouge1 = 0;  ///< 0 to 100
  bool exact = false;
  int64_t prompt_tokens = 0;
  int64_t needle_position = 0;
  int64_t generated_tokens = 0;
  double kept_share = 0;   ///< KV bytes kept of those of the whole prompt
  int64_t kept_bytes = 0;  ///< KV bytes kept
};

/// [contender][point]; none where a prompt was not run.
using NiahCells = std::vector<std::vector<std::optional<NiahCell>>>;

/// A prompt as a sample of a dataset "niah", scored by ROUGE-1.
Sample niah_sample(const NiahPrompt& prompt, const NiahPoint& point, bool chat, int64_t max_tokens);

/// Scores what was generated for such a sample. Without a chat template, what a model says after "Answer:"
/// goes on with other things on the next line, and only the first counts. The prompt's own numbers are left
/// to the caller.
NiahCell niah_cell(const Sample& sample, std::string_view generated);

struct NiahOptions {
  int64_t max_tokens = 64;
  TaskChoice task = TaskChoice::parse("given");  ///< what is given is localization
  JsonlLog* log = nullptr;                       ///< one row a cell; cells that it has are not run again
  std::string setup;                             ///< tells runs with other models, needles or haystacks apart
  std::function<bool()> cancelled;
  /// Work in prompt tokens; cells of earlier runs are not part of it.
  std::function<void(int64_t done, int64_t total)> progress;
};

/// Answers every point under every contender. The contenders of a point share one prefill. Where it is
/// cancelled, points that are not finished have no cells.
NiahCells run_niah(Engine& engine, const Model& model, const NiahPrompts& prompts,
                   std::span<const NiahPoint> points, std::span<const Contender> contenders,
                   const NiahOptions& options);

/// One contender's means, over the seeds and more.
struct NiahSummary {
  std::string name;
  std::string budget;
  std::vector<std::vector<double>> rouge1;  ///< [depth][length]; NaN where no prompt ran
  std::vector<double> by_length;            ///< ROUGE-1
  Estimate overall;                         ///< ROUGE-1
  Estimate exact;                           ///< share of answers that hold what is expected, 0 to 100
  double kept_share = 0;
  double kept_bytes = 0;  ///< a prompt
};

/// `cells` as run_niah gives them for the grid's points.
std::vector<NiahSummary> summarize_niah(const NiahGrid& grid, std::span<const Contender> contenders,
                                        const NiahCells& cells);

}  // namespace windowkv::eval
