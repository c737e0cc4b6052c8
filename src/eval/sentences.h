#pragma once

#include <cstddef>
#include <string_view>

namespace windowkv::eval {

/// Whether a sentence or a paragraph ends just before the byte `at`: after a full stop, question or
/// exclamation mark (closing quotes and brackets included) that whitespace or the text's end follows, but not
/// after titles and initials; after Chinese marks anywhere; before an empty line. A heuristic of English
/// prose.
bool ends_sentence(std::string_view text, size_t at);

}  // namespace windowkv::eval
