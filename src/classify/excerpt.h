#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace windowkv {

/// Bytes of text taken from each end of a prompt: 256 tokens' worth at 4 bytes a token, which is what BERT's
/// and Llama's vocabularies come to on English text.
inline constexpr size_t kExcerptBytes = 1024;

/// The two ends of a prompt, chat marks taken out. A prompt that is shorter is in both.
struct Excerpt {
  std::string head;
  std::string tail;
};

/// At most `bytes` of each end, cut between characters. Takes any bytes.
Excerpt take_excerpt(std::string_view text, size_t bytes = kExcerptBytes);

/// A word, a number, a character of a script written without spaces, a punctuation mark, or a line's end.
struct Word {
  enum class Kind { kWord, kNumber, kMark, kLineEnd };
  std::string text;  ///< lower case; numbers are "0", line ends "\n"
  Kind kind = Kind::kWord;
};

/// Bytes that are not UTF-8 are marks.
std::vector<Word> split_excerpt(std::string_view text);

}  // namespace windowkv
