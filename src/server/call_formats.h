#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/tools.h"

namespace windowkv::server {

/// How a family of models writes calls: begin, call (between call)* end, where a call is
/// before NAME middle ARGUMENTS after. The arguments are a JSON object.
struct CallFormat {
  std::string_view name;
  std::string_view told_by;  ///< text that is in such chat templates; empty: in any
  std::string_view begin, before, middle, after, between, end;
};

/// The format of the models that have this chat template; Jinja text, or the name of one of llama.cpp's.
const CallFormat& call_format(std::string_view chat_template);

/// What a call may begin with, in any format: models write each other's, too.
const std::vector<std::string>& call_marks();

/// A grammar (GBNF) of one or more calls of these tools, in that format. `otherwise`: a JSON schema of
/// what may be written instead, or null. Where a schema of arguments has keywords that are not understood,
/// any object will do, unless the tool is strict. Throws ApiError.
std::string calls_grammar(const CallFormat& format, const ToolRequest& request, const Json* otherwise);

}  // namespace windowkv::server
