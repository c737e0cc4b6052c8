#include "server/call_formats.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "server/api_error.h"
#include "server/json_grammar.h"
#include "server/tagged_calls.h"
#include "windowkv/error.h"

namespace windowkv::server {

namespace {

/// The first whose mark a template has is its own; what else has none of its own, Qwen3-Coder's tags too, is
/// made to write JSON where calls are required. New formats go here; CallParser reads all that have one of
/// call_marks().
constexpr std::array kFormats = {
    CallFormat{.name = "hermes",
               .told_by = "<tool_call>",
               .begin = "",
               .before = "<tool_call>\n{\"name\": \"",
               .middle = "\", \"arguments\": ",
               .after = "}\n</tool_call>",
               .between = "\n",
               .end = ""},
    CallFormat{.name = "mistral with names",
               .told_by = "[ARGS]",
               .begin = "",
               .before = "[TOOL_CALLS]",
               .middle = "[ARGS]",
               .after = "",
               .between = "",
               .end = ""},
    CallFormat{.name = "mistral",
               .told_by = "[TOOL_CALLS]",
               .begin = "[TOOL_CALLS][",
               .before = "{\"name\": \"",
               .middle = "\", \"arguments\": ",
               .after = "}",
               .between = ", ",
               .end = "]"},
    CallFormat{.name = "llama 3",
               .told_by = "\"parameters\": ",
               .begin = "",
               .before = "{\"name\": \"",
               .middle = "\", \"parameters\": ",
               .after = "}",
               .between = "; ",
               .end = ""},
    // As without_tools() (model/tool_text.h) asks for it.
    CallFormat{.name = "json",
               .told_by = "",
               .begin = "",
               .before = "{\"name\": \"",
               .middle = "\", \"arguments\": ",
               .after = "}",
               .between = "\n",
               .end = ""},
};

/// Parameters as a schema that can be made a grammar.
Json arguments_schema(const Tool& tool) {
  Json any{{"type", "object"}};
  if (tool.parameters.is_null()) return any;
  Json schema = tool.parameters;
  if (!schema.contains("$ref") && !schema.contains("anyOf") && !schema.contains("oneOf"))
    schema["type"] = "object";
  try {
    schema_grammar(schema);
    return schema;
  } catch (const Error& e) {
    if (tool.strict)
      throw ApiError(400, fmt::format("the parameters of {} are not supported: {}", tool.name, e.what()),
                     "tools");
    return any;
  }
}

}  // namespace

const CallFormat& call_format(std::string_view chat_template) {
  return *std::ranges::find_if(kFormats, [&](const CallFormat& format) {
    return chat_template.find(format.told_by) != std::string_view::npos;
  });
}

const std::vector<std::string>& call_marks() {
  static const std::vector<std::string> marks = [] {
    auto all = tagged_marks();
    for (const char* mark :
         {"[TOOL_CALLS]", "<|python_tag|>", "<tools>", "<function_call>", "```json",
          // gpt-oss
          "<|channel|>commentary to=functions.", "<|start|>assistant to=functions.", "to=functions."})
      all.emplace_back(mark);
    return all;
  }();
  return marks;
}

std::string calls_grammar(const CallFormat& format, const ToolRequest& request, const Json* otherwise) {
  std::vector<Json> schemas;
  std::vector<std::string> calls;
  for (const auto& tool : request.tools) {
    const auto head = fmt::format("{}{}{}", format.before, tool.name, format.middle);
    calls.push_back(fmt::format("{} schema{}", grammar_literal(head), schemas.size()));
    schemas.push_back(arguments_schema(tool));
  }
  const auto call = fmt::format("({}) {}", fmt::join(calls, " | "), grammar_literal(format.after));
  auto root = fmt::format("{} {}", grammar_literal(format.begin), call);
  if (request.parallel) root += fmt::format(" ({} {})*", grammar_literal(format.between), call);
  root += " " + grammar_literal(format.end);
  if (otherwise != nullptr) {
    root += fmt::format(" | space schema{} space", schemas.size());
    schemas.push_back(*otherwise);
  }
  try {
    return grammar_with(root, schemas);
  } catch (const Error& e) {
    throw ApiError(400, fmt::format("the tools cannot be made a grammar: {}", e.what()), "tools");
  }
}

}  // namespace windowkv::server
