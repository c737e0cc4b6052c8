#include "eval/words.h"

#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>

#include "support/utf8.h"

namespace windowkv::eval {

namespace {

UChar32 icu_char(char32_t c) {
  return static_cast<UChar32>(c);
}

bool in_category(char32_t c, uint32_t mask) {
  return (U_MASK(u_charType(icu_char(c))) & mask) != 0;
}

size_t sequence_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xE0) return 2;
  return lead < 0xF0 ? 3 : 4;
}

}  // namespace

std::u32string code_points(std::string_view utf8) {
  std::u32string out;
  out.reserve(utf8.size());
  while (!utf8.empty()) {
    // The text up to the first error is sound, so that lengths can be read off lead bytes.
    const size_t sound = std::min(utf8_first_error(utf8), utf8.size());
    for (size_t i = 0; i < sound;) {
      const auto lead = static_cast<unsigned char>(utf8[i]);
      const size_t length = sequence_length(lead);
      char32_t c = length == 1 ? lead : lead & (0x7Fu >> length);
      for (size_t k = 1; k < length; ++k) c = c << 6 | (static_cast<unsigned char>(utf8[i + k]) & 0x3Fu);
      out.push_back(c);
      i += length;
    }
    utf8.remove_prefix(sound);
    if (!utf8.empty()) {
      out.push_back(U'\uFFFD');
      utf8.remove_prefix(1);
    }
  }
  return out;
}

bool is_blank(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

bool is_space(char32_t c) {
  const auto direction = u_charDirection(icu_char(c));
  return in_category(c, U_GC_ZS_MASK) || direction == U_WHITE_SPACE_NEUTRAL ||
         direction == U_BLOCK_SEPARATOR || direction == U_SEGMENT_SEPARATOR;
}

bool is_digit(char32_t c) {
  return in_category(c, U_GC_ND_MASK);
}

bool is_word(char32_t c) {
  return c == U'_' || in_category(c, U_GC_L_MASK | U_GC_N_MASK);
}

bool is_ascii_punctuation(char32_t c) {
  return (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) ||
         (c >= 0x7B && c <= 0x7E);
}

bool is_cjk(char32_t c) {
  return (c >= 0x3040 && c <= 0x30FF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x4E00 && c <= 0x9FFF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x20000 && c <= 0x3FFFF);
}

std::u32string lowercase(std::u32string_view text) {
  static_assert(sizeof(UChar32) == sizeof(char32_t));
  auto lower = icu::UnicodeString::fromUTF32(reinterpret_cast<const UChar32*>(text.data()),
                                             static_cast<int32_t>(text.size()));
  lower.toLower(icu::Locale::getRoot());
  std::u32string out(static_cast<size_t>(lower.countChar32()), U'\0');
  UErrorCode error = U_ZERO_ERROR;
  lower.toUTF32(reinterpret_cast<UChar32*>(out.data()), static_cast<int32_t>(out.size()), error);
  return out;
}

Words split_words(std::u32string_view text) {
  Words words;
  bool inside = false;
  for (const char32_t c : text) {
    if (is_space(c)) {
      inside = false;
      continue;
    }
    if (!inside) words.emplace_back();
    words.back().push_back(c);
    inside = true;
  }
  return words;
}

Words split_at(std::u32string_view text, char32_t mark) {
  Words parts(1);
  for (const char32_t c : text) {
    if (c == mark) {
      parts.emplace_back();
    } else {
      parts.back().push_back(c);
    }
  }
  return parts;
}

std::u32string_view strip(std::u32string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

Words numbers(std::u32string_view text) {
  Words found;
  bool inside = false;
  for (const char32_t c : text) {
    const bool digit = is_digit(c);
    if (digit && !inside) found.emplace_back();
    if (digit) found.back().push_back(c);
    inside = digit;
  }
  return found;
}

}  // namespace windowkv::eval
