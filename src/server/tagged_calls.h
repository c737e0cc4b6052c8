#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/tools.h"
#include "windowkv/vocab.h"

namespace windowkv::server {

/// Whether there is a call: no, not all of it yet, or yes.
enum class Match { kMore, kNo, kYes };

/// Whether a tool's name may have it.
bool is_name_character(char c);

/// How a family of models writes calls whose arguments stand between tags, each by itself:
/// section call NAME name_end (key KEY key_end value VALUE value_end)* end, with white space between.
struct TaggedFormat {
  std::string_view section;  ///< before a call, or the first of several; a call may begin without it
  std::string_view call;     ///< empty: NAME stands behind the section
  std::string_view name_end;
  std::string_view key, key_end, value, value_end;
  std::string_view end;
};

/// What calls in one of these formats may begin with.
std::vector<std::string> tagged_marks();

/// Reads a call at the beginning of the text, which is one of tagged_marks(). On kYes `size` is the bytes it
/// takes, and values are of the types that the tool's schema says: text where that does not say otherwise,
/// or where they are no JSON.
Match read_tagged_call(std::string_view text, const std::vector<Tool>& tools, ToolCall& call, size_t& size);

}  // namespace windowkv::server
