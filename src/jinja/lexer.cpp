#include "jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

#include "support/blanks.h"

namespace windowkv {

namespace {

bool begins_name(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_' || (c & 0x80) != 0;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_name(char c) {
  return begins_name(c) || is_digit(c);
}

void append_utf8(std::string& text, char32_t code) {
  const auto add = [&](char32_t bits) { text += static_cast<char>(bits); };
  if (code < 0x80) return add(code);
  if (code >= 0x10000) {
    add(0xF0 | code >> 18);
    add(0x80 | (code >> 12 & 0x3F));
  } else if (code >= 0x800) {
    add(0xE0 | code >> 12);
  } else {
    return add(0xC0 | code >> 6), add(0x80 | (code & 0x3F));
  }
  add(0x80 | (code >> 6 & 0x3F));
  add(0x80 | (code & 0x3F));
}

class Lexer {
 public:
  explicit Lexer(const std::string& source) : source_(source), end_(source.size()) {
    if (source.ends_with('\n')) --end_;
  }

  std::vector<JinjaPiece> pieces() {
    while (at_ < end_) {
      const auto open = next_tag();
      const char kind = open == end_ ? '\0' : source_[open + 1];
      const char sign = open + 2 < end_ ? source_[open + 2] : '\0';
      add_text(open, kind, sign);
      if (open == end_) break;
      at_ = open + 2 + (sign == '-' || sign == '+' ? 1 : 0);
      if (kind == '#')
        comment(open);
      else if (kind == '%' && !raw(open))
        tag(open, JinjaPiece::Kind::kBlock, "%}");
      else if (kind == '{')
        tag(open, JinjaPiece::Kind::kOutput, "}}");
    }
    return std::move(pieces_);
  }

 private:
  [[noreturn]] void fail(size_t at, const std::string& what) const { throw JinjaError(source_, at, what); }
  bool has(std::string_view text, size_t at) const {
    return at + text.size() <= end_ && std::string_view(source_).substr(at, text.size()) == text;
  }

  size_t next_tag() const {
    for (size_t at = at_; (at = source_.find('{', at)) != std::string::npos && at + 1 < end_; ++at)
      if (source_[at + 1] == '{' || source_[at + 1] == '%' || source_[at + 1] == '#') return at;
    return end_;
  }

  /// The text up to a tag.
  void add_text(size_t end, char kind, char sign) {
    std::string_view text = std::string_view(source_).substr(at_, end - at_);
    if (sign == '-' && kind != '\0') {
      text = text.substr(0, text.find_last_not_of(kBlanks) + 1);
    } else if (sign != '+' && (kind == '%' || kind == '#')) {
      const auto line = text.rfind('\n') + 1;
      if ((line > 0 || line_begins_) && text.find_first_not_of(kBlanks, line) == std::string::npos)
        text = text.substr(0, line);
    }
    if (!text.empty()) pieces_.push_back({JinjaPiece::Kind::kText, std::string(text), {}, at_});
  }

  /// Behind a tag.
  void skip_blanks(char sign, bool block) {
    line_begins_ = false;
    if (sign == '-')
      at_ = std::min(source_.find_first_not_of(kBlanks, at_), end_);
    else if (block && sign != '+' && has("\n", at_))
      ++at_;
    line_begins_ = at_ > 0 && source_[at_ - 1] == '\n';
  }

  void comment(size_t open) {
    const auto close = source_.find("#}", at_);
    if (close == std::string::npos || close >= end_) fail(open, "a comment has no end");
    const char sign = close > at_ ? source_[close - 1] : '\0';
    at_ = close + 2;
    skip_blanks(sign, true);
  }

  /// {% raw %}
  bool raw(size_t open) {
    const auto name = source_.find_first_not_of(kBlanks, at_);
    if (name == std::string::npos || !has("raw", name)) return false;
    auto close = source_.find_first_not_of(kBlanks, name + 3);
    if (close == std::string::npos || !(has("%}", close) || has("-%}", close))) return false;
    const char sign = source_[close];
    at_ = close + (sign == '-' ? 3 : 2);
    skip_blanks(sign, true);
    for (size_t at = at_; (at = source_.find("{%", at)) != std::string::npos && at < end_; at += 2) {
      const char before = source_[at + 2];
      const auto end_name = source_.find_first_not_of("-+ \t\n\r\v\f", at + 2);
      if (end_name == std::string::npos || !has("endraw", end_name)) continue;
      close = source_.find("%}", end_name);
      if (close == std::string::npos) break;
      add_text(at, '%', before);
      const char after = source_[close - 1];
      at_ = close + 2;
      skip_blanks(after, true);
      return true;
    }
    fail(open, "raw has no endraw");
  }

  void tag(size_t open, JinjaPiece::Kind kind, std::string_view close) {
    JinjaPiece piece{kind, "", {}, open};
    std::string brackets;  // what must close before the tag can
    for (;;) {
      at_ = std::min(source_.find_first_not_of(kBlanks, at_), end_);
      if (at_ == end_) fail(open, "a tag has no end");
      const char sign = source_[at_] == '-' || source_[at_] == '+' ? source_[at_] : '\0';
      if (brackets.empty() && has(close, at_ + (sign != '\0' ? 1 : 0))) {
        piece.tokens.push_back({JinjaToken::Kind::kEnd, "", at_});
        at_ += close.size() + (sign != '\0' ? 1 : 0);
        pieces_.push_back(std::move(piece));
        skip_blanks(sign, kind == JinjaPiece::Kind::kBlock);
        return;
      }
      piece.tokens.push_back(token());
      const auto& read = piece.tokens.back();
      if (read.kind != JinjaToken::Kind::kSign) continue;
      if (read.text == "(" || read.text == "[" || read.text == "{") brackets += read.text;
      if (read.text == ")" || read.text == "]" || read.text == "}") {
        const char opened = read.text == ")" ? '(' : read.text == "]" ? '[' : '{';
        if (!brackets.ends_with(opened)) fail(read.at, fmt::format("unexpected \"{}\"", read.text));
        brackets.pop_back();
      }
    }
  }

  JinjaToken token() {
    const char c = source_[at_];
    const size_t begin = at_;
    if (c == '"' || c == '\'') return string(c);
    if (is_digit(c)) return number();
    if (begins_name(c)) {
      while (at_ < end_ && is_name(source_[at_])) ++at_;
      return {JinjaToken::Kind::kName, source_.substr(begin, at_ - begin), begin};
    }
    constexpr std::array<std::string_view, 6> kPairs = {"**", "//", "==", "!=", "<=", ">="};
    for (const auto pair : kPairs)
      if (has(pair, at_)) {
        at_ += 2;
        return {JinjaToken::Kind::kSign, std::string(pair), begin};
      }
    if (std::string_view("+-*/%~|<>()[]{}.,:=").find(c) == std::string_view::npos)
      fail(at_, fmt::format("unexpected \"{}\"", c));
    ++at_;
    return {JinjaToken::Kind::kSign, std::string(1, c), begin};
  }

  JinjaToken number() {
    const size_t begin = at_;
    const auto digits = [&] {
      while (at_ < end_ && (is_digit(source_[at_]) || source_[at_] == '_')) ++at_;
    };
    digits();
    if (has(".", at_) && at_ + 1 < end_ && is_digit(source_[at_ + 1])) {
      ++at_;
      digits();
    }
    if (at_ < end_ && (source_[at_] == 'e' || source_[at_] == 'E')) {
      const auto mark = at_++;
      if (has("-", at_) || has("+", at_)) ++at_;
      if (at_ < end_ && is_digit(source_[at_]))
        digits();
      else
        at_ = mark;
    }
    auto text = source_.substr(begin, at_ - begin);
    std::erase(text, '_');
    return {JinjaToken::Kind::kNumber, text, begin};
  }

  /// A string, with Python's escapes.
  JinjaToken string(char quote) {
    JinjaToken out{JinjaToken::Kind::kString, "", at_};
    for (++at_; at_ < end_ && source_[at_] != quote; ++at_) {
      if (source_[at_] != '\\' || at_ + 1 == end_)
        out.text += source_[at_];
      else
        escape(out.text);
    }
    if (at_ == end_) fail(out.at, "a string has no end");
    ++at_;
    return out;
  }

  void escape(std::string& text) {
    static constexpr std::string_view kLetters = "nrtbfav0\\'\"";
    static constexpr std::string_view kMeanings{"\n\r\t\b\f\a\v\0\\'\"", 11};
    const char c = source_[++at_];
    if (const auto letter = kLetters.find(c); letter != std::string_view::npos) {
      text += kMeanings[letter];
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t size = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      const auto digits = source_.substr(at_ + 1, size);
      const bool hex = digits.size() == size &&
                       std::ranges::all_of(digits, [](unsigned char d) { return std::isxdigit(d) != 0; });
      const auto code = hex ? std::stoul(digits, nullptr, 16) : 0x110000;
      if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) fail(at_ - 1, "an escape names no character");
      append_utf8(text, static_cast<char32_t>(code));
      at_ += size;
    } else if (c != '\n') {
      text += '\\';
      text += c;
    }
  }

  const std::string& source_;
  size_t end_;
  size_t at_ = 0;
  bool line_begins_ = true;
  std::vector<JinjaPiece> pieces_;
};

}  // namespace

JinjaError::JinjaError(const std::string& source, size_t at, const std::string& what)
    : std::runtime_error(fmt::format(
          "line {}: {}", 1 + std::ranges::count(std::string_view(source).substr(0, at), '\n'), what)) {}

std::vector<JinjaPiece> jinja_pieces(const std::string& source) {
  return Lexer(source).pieces();
}

}  // namespace windowkv
