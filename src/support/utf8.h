#pragma once

#include <cstddef>
#include <string_view>

namespace windowkv {

/// Bytes at the end of `text` that begin a UTF-8 character and do not finish it: 0 to 3.
size_t utf8_incomplete_tail(std::string_view text);

/// Offset of the first byte that is not UTF-8; npos if all of it is.
size_t utf8_first_error(std::string_view text);

/// Characters that begin in `text`.
size_t utf8_characters(std::string_view text);

}  // namespace windowkv
