#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "eval/ruler/qa_data.h"

namespace windowkv::eval::ruler {

/// RULER's filler sentences.
inline constexpr std::string_view kNoiseText =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

/// Running text as samples take it: its words, over and over again where it is too short.
struct Essay {
  std::vector<std::string> words;    ///< between ASCII whitespace
  std::vector<bool> ends_sentence;   ///< whether a sentence ends with that word
  std::vector<std::string> lexicon;  ///< its words of 3 to 12 letters a-z, each once, in alphabetic order
};

/// Throws Error for text without words.
Essay make_essay(std::string_view text);

/// Words of our own where RULER takes those of the wonderwords package; each once, lower case.
const std::vector<std::string>& nouns();
const std::vector<std::string>& adjectives();
const std::vector<std::string>& verbs();

/// What samples are made from.
struct Source {
  Essay essay;
  std::optional<QaData> squad;     ///< for qa_1
  std::optional<QaData> hotpotqa;  ///< for qa_2
  std::function<int64_t(std::string_view)> count_tokens;
};

}  // namespace windowkv::eval::ruler
