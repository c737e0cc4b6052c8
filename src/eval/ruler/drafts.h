#pragma once

#include "eval/ruler/tasks.h"

/// The kinds of tasks, one file each; tasks.cpp says which task is which kind with which parameters.
namespace windowkv::eval::ruler {

enum class Filler { kNoise, kEssay, kNeedles };
enum class Magic { kNumbers, kWords, kUuids };

/// Needles: "One of the special magic numbers for {key} is: {value}." in a text, asked for by key. A unit is
/// a word of the essay, a repetition of the noise or another needle. (niah.py)
struct Needles {
  Filler filler = Filler::kEssay;
  Magic keys = Magic::kWords;
  Magic values = Magic::kNumbers;
  size_t keys_hidden = 1;
  size_t values_a_key = 1;
  size_t keys_asked = 1;
};
Draft draft_needles(const Needles& needles, const Request& request);

/// A chain "VAR A = 12345", "VAR B = VAR A " ... in the noise; all names of the value are asked for. A solved
/// example of up to 500 tokens comes first. A unit is a repetition of the noise. (variable_tracking.py, one
/// chain)
Draft draft_variable_tracking(size_t hops, const Request& request);

/// A numbered list of words, ten of them oftener than the others; a solved example comes first. A unit is a
/// different word. (common_words_extraction.py)
Draft draft_common_words(const Request& request);

/// Coded words whose frequencies fall as those of Zipf's law; the three most frequent are asked for. A unit
/// is a word of the text, before frequencies are rounded down. (freq_words_extraction.py, alpha 2)
Draft draft_frequent_words(const Request& request);

/// A question with documents, the right one among them. A unit is a document. (qa.py)
Draft draft_qa(const QaData& data, const Request& request);

/// Sentences with others inserted before those at `places`, which are in ascending order; each on a line.
std::string lines_with(std::vector<std::string> sentences, const std::vector<std::string>& inserted,
                       const std::vector<int64_t>& places);

}  // namespace windowkv::eval::ruler
