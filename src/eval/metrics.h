#pragma once

#include <span>
#include <string>
#include <string_view>

#include "eval/rouge.h"  // rouge_l_f1, rouge1_f1

/// The metrics of LongBench, as its own metrics.py defines them, quirks included, those of the MiniLong suite
/// and those of RULER. Each gives 0 to 1 for one prediction and one reference.
///
/// Where this departs from the official ones:
/// - the Chinese metrics cut text into characters, the official ones into words by the dictionary of `jieba`.
///   Scores are not comparable with published ones;
/// - ROUGE-L has no limit to the length of sentences (rouge.h);
/// - the lower case of a Greek sigma does not depend on its place in the word.
namespace windowkv::eval {

enum class Metric {
  kQaF1,
  kQaF1Zh,
  kRougeL,
  kRouge1,
  kRougeLZh,
  kClassification,
  kRetrieval,
  kRetrievalZh,
  kCount,
  kCodeSimilarity,
  kExact,
  kListRecall,
  kStringMatchAll,
  kStringMatchPart,
};

std::string_view to_string(Metric metric);
Metric parse_metric(std::string_view name);  ///< throws Error for an unknown name

/// F1 of the words both have, once lower-cased and without ASCII punctuation and articles.
double qa_f1(std::string_view prediction, std::string_view reference);

/// The same of Chinese text: characters (letters and digits of other scripts in runs) without punctuation.
double qa_f1_zh(std::string_view prediction, std::string_view reference);

/// ROUGE-L F1 of the same units, punctuation kept.
double rouge_l_zh_f1(std::string_view prediction, std::string_view reference);

/// 1 / (classes named in the prediction) if the right one is among them. Classes that are part of the right
/// one's name are not counted; as in the official loop, which removes from the list it walks, the one listed
/// after a removed one is not looked at. Without classes: whether the prediction holds the reference.
double classification(std::string_view prediction, std::string_view reference,
                      std::span<const std::string> classes);

/// Share of the prediction's numbers that are the paragraph's in the reference, "Paragraph 7" or "段落7".
/// Throws Error for a reference without one.
double retrieval(std::string_view prediction, std::string_view reference);
double retrieval_zh(std::string_view prediction, std::string_view reference);

/// Share of the prediction's numbers that are the reference.
double count(std::string_view prediction, std::string_view reference);

/// fuzzywuzzy's ratio of the reference and the prediction's first line that has no comment or code mark.
double code_similarity(std::string_view prediction, std::string_view reference);

/// Whether the prediction's first line is the reference; whitespace around both left aside.
double exact(std::string_view prediction, std::string_view reference);

/// Share of the reference's comma-separated items that occur in the prediction.
double list_recall(std::string_view prediction, std::string_view reference);

/// RULER's: the share of the references that occur in the prediction, and whether any does. Case does not
/// matter. Theirs are of all references together, where other metrics take the best.
double string_match_all(std::string_view prediction, std::span<const std::string> references);
double string_match_part(std::string_view prediction, std::span<const std::string> references);

/// fuzzywuzzy.fuzz.ratio in [0, 1], rounded to hundredths (halves to even): 2M/T of Python's difflib, where M
/// are the characters of its matching blocks and T those of both texts. difflib is what fuzzywuzzy uses
/// unless python-Levenshtein is installed, which LongBench does not ask for. Characters that make up more
/// than 1 % of a `second` of 200 characters or more start no block (difflib's "autojunk").
double fuzz_ratio(std::u32string_view first, std::u32string_view second);

/// The answer's first line, as LongBench takes it: newlines before it are left out.
std::string_view first_line(std::string_view prediction);

/// The best score over the references; of RULER's metrics that of all.
double best_score(Metric metric, std::string_view prediction, std::span<const std::string> references,
                  std::span<const std::string> classes = {});

}  // namespace windowkv::eval
