#include "classify/excerpt.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "support/utf8.h"

namespace windowkv {

namespace {

/// Marks of the common chat templates that are no `<|...|>`.
constexpr std::array<std::string_view, 9> kMarks = {
    "<start_of_turn>", "<end_of_turn>", "<<SYS>>", "<</SYS>>", "[INST]", "[/INST]", "<s>", "</s>", "<bos>"};
constexpr std::array<std::string_view, 4> kRoles = {"system", "user", "assistant", "model"};
/// Words that plain transcripts put before a turn; taken out at the very ends only.
constexpr std::array<std::string_view, 4> kTurns = {"System:", "Human:", "User:", "Assistant:"};

/// Bytes of a chat mark at the start of `text`, its role's name included; 0 for none.
size_t mark_length(std::string_view text) {
  size_t length = 0;
  if (text.starts_with("<|")) {
    const size_t end = text.substr(0, 40).find("|>");
    if (end == std::string_view::npos ||
        text.substr(2, end - 2).find_first_of(" \n") != std::string_view::npos)
      return 0;
    length = end + 2;
  } else {
    for (const auto mark : kMarks)
      if (text.starts_with(mark)) length = mark.size();
  }
  if (length == 0) return 0;
  // "<|im_start|>user\n", "<|start_header_id|>user<|end_header_id|>", "<start_of_turn>user\n"
  for (const auto role : kRoles) {
    const auto rest = text.substr(length);
    if (rest.starts_with(role) &&
        (rest.size() == role.size() || rest[role.size()] == '\n' || rest[role.size()] == '<'))
      return length + role.size();
  }
  return length;
}

std::string without_marks(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t length = text[i] == '<' || text[i] == '[' ? mark_length(text.substr(i)) : 0;
    if (length == 0)
      out += text[i++];
    else
      out += '\n', i += length;
  }
  return out;
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::string_view without_turns(std::string_view text) {
  for (const auto turn : kTurns) {
    if (text.starts_with(turn)) text = trim(text.substr(turn.size()));
    if (text.ends_with(turn)) text = trim(text.substr(0, text.size() - turn.size()));
  }
  return text;
}

bool is_continuation(char c) {
  return (static_cast<uint8_t>(c) & 0xC0) == 0x80;
}

/// Letters of the scripts that have case: Latin-1, Greek, Cyrillic; enough for the instructions' words.
char32_t lower(char32_t c) {
  if ((c >= 'A' && c <= 'Z') || (c >= 0xC0 && c <= 0xDE && c != 0xD7) || (c >= 0x391 && c <= 0x3A9) ||
      (c >= 0x410 && c <= 0x42F))
    return c + 32;
  return c;
}

enum class Class { kSpace, kLine, kLetter, kDigit, kSingle, kMark };

Class class_of(char32_t c) {
  if (c == '\n') return Class::kLine;
  if (c <= ' ' || c == 0xA0 || c == 0x3000 || (c >= 0x2000 && c <= 0x200B)) return Class::kSpace;
  if (c >= '0' && c <= '9') return Class::kDigit;
  if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_') return Class::kLetter;
  if (c < 0xC0 || c == 0xD7 || c == 0xF7 || (c >= 0x2000 && c <= 0x2BFF) || (c >= 0x3001 && c <= 0x303F) ||
      (c >= 0xFF00 && c <= 0xFF20) || c == 0xFFFD)
    return Class::kMark;
  if ((c >= 0x3040 && c <= 0x9FFF) || (c >= 0x20000 && c <= 0x3FFFF)) return Class::kSingle;
  return Class::kLetter;
}

/// The character at text[i] and its length; U+FFFD, one byte, where it is none.
char32_t decode(std::string_view text, size_t i, size_t& length) {
  const auto lead = static_cast<uint8_t>(text[i]);
  length = 1;
  if (lead < 0x80) return lead;
  const size_t n = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (i + n > text.size() || utf8_first_error(text.substr(i, n)) != std::string_view::npos) return 0xFFFD;
  length = n;
  char32_t c = lead & (0x7Fu >> n);
  for (size_t k = 1; k < n; ++k) c = (c << 6) | (static_cast<uint8_t>(text[i + k]) & 0x3Fu);
  return c;
}

void append(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

}  // namespace

Excerpt take_excerpt(std::string_view text, size_t bytes) {
  text = without_turns(trim(text));
  const size_t room = 2 * bytes;  // for the marks that go
  const auto head_text = without_marks(text.substr(0, room));
  const auto tail_text = without_marks(text.substr(text.size() - std::min(text.size(), room)));
  auto head = trim(head_text).substr(0, bytes);
  auto tail = trim(tail_text);
  tail = tail.substr(tail.size() - std::min(tail.size(), bytes));
  head.remove_suffix(utf8_incomplete_tail(head));
  while (!tail.empty() && is_continuation(tail.front())) tail.remove_prefix(1);
  return {std::string(head), std::string(tail)};
}

std::vector<Word> split_excerpt(std::string_view text) {
  std::vector<Word> words;
  Class previous = Class::kSpace;
  for (size_t i = 0, length = 0; i < text.size(); i += length) {
    const char32_t c = decode(text, i, length);
    const auto kind = class_of(c);
    const bool joined = !words.empty() && kind == previous;
    previous = kind;
    switch (kind) {
      case Class::kSpace:
        break;
      case Class::kLine:  // blank lines count as one
        if (!words.empty() && words.back().kind != Word::Kind::kLineEnd)
          words.push_back({"\n", Word::Kind::kLineEnd});
        break;
      case Class::kLetter:
        if (!joined) words.push_back({"", Word::Kind::kWord});
        append(words.back().text, lower(c));
        break;
      case Class::kDigit:
        if (!joined) words.push_back({"0", Word::Kind::kNumber});
        break;
      case Class::kSingle:
        words.push_back({std::string(text.substr(i, length)), Word::Kind::kWord});
        break;
      case Class::kMark:  // "-----" and "====" count as one
        if (joined && words.back().text == text.substr(i, length)) break;
        words.push_back({std::string(text.substr(i, length)), Word::Kind::kMark});
        break;
    }
  }
  return words;
}

}  // namespace windowkv
