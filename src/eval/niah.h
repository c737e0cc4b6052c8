#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/contender.h"
#include "eval/jsonl_log.h"
#include "eval/svg.h"
#include "windowkv/engine.h"

/// Needle in a haystack (Kamradt, github.com/gkamradt/LLMTest_NeedleInAHaystack): one sentence hidden in a
/// long text, asked for at the end. Scored as the SnapKV and WindowKV papers do, by ROUGE-1, and by exact
/// match.
namespace windowkv::eval {

/// What is hidden, how it is asked for, and what the answer must say. Kamradt's own by default.
struct Needle {
  std::string sentence =
      "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.";
  std::string question = "What is the best thing to do in San Francisco?";
  std::string answer = "eat a sandwich and sit in Dolores Park on a sunny day";
};

/// Byte offset at which a needle for that depth (0 to 100) goes in: 0 and the end of the text for 0 and 100,
/// else the end of a sentence or paragraph that is nearest, or 0. (Kamradt backs up to a period; a novel's
/// long sentences would make that a tenth of a short prompt.)
size_t needle_place(std::string_view text, double depth);

/// 0 to 100 of a prompt's answer.
double needle_rouge1(std::string_view answer, std::string_view expected);
/// Whether the answer contains what is expected; case and the kind of whitespace do not matter.
bool needle_found(std::string_view answer, std::string_view expected);

struct NiahPrompt {
  std::vector<Token> tokens;
  std::string text;             ///< what was tokenized
  int64_t needle_position = 0;  ///< tokens before the needle
};

/// Makes prompts of an exact length out of one haystack, needle and prompt form.
class NiahPrompts {
 public:
  /// `chat`: the model's template around "{text}\n\nQuestion: {question}"; else "{text}\n\nQuestion:
  /// {question} \nAnswer:". Throws Error for a haystack that is empty or holds the needle already.
  NiahPrompts(const Vocab& vocab, const std::string& haystack, Needle needle, bool chat);

  /// A prompt of at most `length` tokens and as few under it as whole words allow. The haystack starts at its
  /// beginning for seed 0, else at a sentence that the seed decides, and starts over where it ends. Throws
  /// Error where the needle and the question alone are longer.
  NiahPrompt make(int64_t length, double depth, uint64_t seed) const;

  const Needle& needle() const { return needle_; }
  bool chat() const { return chat_; }

 private:
  NiahPrompt build(std::string_view text, double depth) const;
  std::string haystack_from(size_t start, size_t bytes) const;
  size_t start_of(uint64_t seed) const;

  const Vocab& vocab_;
  std::string haystack_;
  Needle needle_;
  bool chat_;
  std::string before_, after_;  // what stands around the text
};

/// One prompt of the grid.
struct NiahPoint {
  int64_t length = 0;
  double depth = 0;
  uint64_t seed = 0;
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
  double rouge1 = 0;  ///< 0 to 100
  bool exact = false;
  int64_t prompt_tokens = 0;
  int64_t needle_position = 0;
  int64_t generated_tokens = 0;
  double kept_share = 0;  ///< KV bytes kept of those of the whole prompt
};

struct NiahOptions {
  int64_t max_tokens = 64;
  TaskChoice task = TaskChoice::parse("given");  ///< what is given is localization
  JsonlLog* log = nullptr;                       ///< one row a cell; cells that it has are not run again
  std::string setup;                             ///< tells runs with other models, needles or haystacks apart
  std::function<bool()> cancelled;
  /// Work in prompt tokens; cells of earlier runs are not part of it.
  std::function<void(int64_t done, int64_t total)> progress;
};

/// By contender, each by point. The contenders of a point share one prefill. Throws Cancelled on.
std::vector<std::vector<NiahCell>> run_niah(Engine& engine, const Model& model, const NiahPrompts& prompts,
                                            std::span<const NiahPoint> points,
                                            std::span<const Contender> contenders,
                                            const NiahOptions& options);

/// One contender's means, over the seeds and more.
struct NiahSummary {
  std::string name;
  std::vector<std::vector<double>> rouge1;  ///< [depth][length]
  std::vector<double> by_length;            ///< ROUGE-1
  double overall = 0;                       ///< ROUGE-1
  double exact = 0;                         ///< share of answers, 0 to 100
  double kept_share = 0;
};

/// `cells` as run_niah gives them for the grid's points.
std::vector<NiahSummary> summarize_niah(const NiahGrid& grid, std::span<const Contender> contenders,
                                        const std::vector<std::vector<NiahCell>>& cells);

/// The papers' picture: length across, depth down, one panel a contender.
Heatmap niah_heatmap(const NiahGrid& grid, std::span<const NiahSummary> summaries);

}  // namespace windowkv::eval
