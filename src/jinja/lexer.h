#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace windowkv {

/// Part of a tag's inside.
struct JinjaToken {
  enum class Kind { kName, kNumber, kString, kSign, kEnd };
  Kind kind = Kind::kEnd;
  std::string text;  ///< of strings: what they say
  size_t at = 0;     ///< byte offset in the source
};

/// Text between tags, with the white space taken off that Jinja takes off, or a tag.
struct JinjaPiece {
  enum class Kind { kText, kOutput, kBlock };  ///< text, {{ }}, {% %}
  Kind kind = Kind::kText;
  std::string text;
  std::vector<JinjaToken> tokens;  ///< of tags, kEnd the last
  size_t at = 0;
};

/// "line 3: what".
struct JinjaError : std::runtime_error {
  JinjaError(const std::string& source, size_t at, const std::string& what);
};

/// A template's pieces, as Jinja reads it with trim_blocks and lstrip_blocks, which is how chat templates are
/// written. The source's line breaks are \n. Throws JinjaError.
std::vector<JinjaPiece> jinja_pieces(const std::string& source);

}  // namespace windowkv
