#include "eval/words.h"

#include <algorithm>
#include <clocale>
#include <cwctype>

#include "support/utf8.h"
#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

/// Letters and case come from the C library, of a locale that has Unicode's whatever the user's is.
locale_t unicode_locale() {
  static const locale_t locale = [] {
    for (const char* name : {"C.UTF-8", "en_US.UTF-8"})
      if (const locale_t found = newlocale(LC_CTYPE_MASK, name, nullptr)) return found;
    throw Error("the system has neither the locale C.UTF-8 nor en_US.UTF-8; the metrics need one of them");
  }();
  return locale;
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
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_digit(char32_t c) {
  // The zeros of Unicode's decimal digits (category Nd), of which nine more follow each.
  static constexpr char32_t kZeros[] = {
      0x0030, 0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66,
      0x0DE6, 0x0E50, 0x0ED0, 0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50,
      0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10};
  for (const char32_t zero : kZeros)
    if (c >= zero && c < zero + 10) return true;
  return false;
}

bool is_word(char32_t c) {
  return c == U'_' || is_digit(c) || iswalnum_l(static_cast<wint_t>(c), unicode_locale()) != 0;
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
  std::u32string out;
  out.reserve(text.size());
  for (const char32_t c : text) {
    if (c == U'\u0130') {
      out += U"i\u0307";  // the one letter whose lower case is two code points
    } else {
      out.push_back(static_cast<char32_t>(towlower_l(static_cast<wint_t>(c), unicode_locale())));
    }
  }
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
