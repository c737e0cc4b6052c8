#pragma once

#include <string>
#include <string_view>
#include <vector>

/// Text as the official metrics, which are Python, see it: code points, and Python's notion of whitespace,
/// digits and words (the Unicode properties come from ICU).
namespace windowkv::eval {

using Words = std::vector<std::u32string>;

/// Bytes that are not UTF-8 become U+FFFD, one each.
std::u32string code_points(std::string_view utf8);

bool is_blank(char c);      ///< a space, tab or line break of ASCII
bool is_space(char32_t c);  ///< str.isspace()
bool is_digit(char32_t c);  ///< \d: Unicode's decimal digits, of any script
bool is_word(char32_t c);   ///< \w: letters and numbers of any kind, and _
bool is_ascii_punctuation(char32_t c);
/// Characters written without spaces between words: Chinese, and the Japanese syllabaries.
bool is_cjk(char32_t c);

/// str.lower(), with its two rules of context: a final Greek sigma, and İ as two code points.
std::u32string lowercase(std::u32string_view text);

/// str.split(): the runs between whitespace.
Words split_words(std::u32string_view text);

/// str.split(mark): n marks give n + 1 parts, empty ones included.
Words split_at(std::u32string_view text, char32_t mark);

/// str.strip().
std::u32string_view strip(std::u32string_view text);

/// re.findall(r"\d+").
Words numbers(std::u32string_view text);

}  // namespace windowkv::eval
