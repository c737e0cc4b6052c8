#include "server/tools.h"

#include <algorithm>

#include "server/api_error.h"

namespace windowkv::server {

namespace {

constexpr size_t kMostTools = 128;
constexpr size_t kMostCalls = 1024;
constexpr size_t kLongestName = 64;

/// Names are written into prompts and grammars as they are.
bool is_name(const std::string& name) {
  return !name.empty() && name.size() <= kLongestName && std::ranges::all_of(name, [](unsigned char c) {
    return (c < 0x80 && std::isalnum(c) != 0) || c == '_' || c == '-' || c == '.';
  });
}

Tool tool_of(const Json& json, const std::string& where) {
  const Fields fields(json, where + ".");
  std::string type;
  fields.read("type", type);
  if (type != "function") fields.refuse("type", "must be \"function\": no other tools are there");
  const auto* function = fields.find("function");
  if (function == nullptr) fields.refuse("function", "is missing");
  const Fields inner(*function, where + ".function.");
  Tool tool;
  std::string description;
  inner.read("name", tool.name);
  inner.read("description", description);
  inner.read("strict", tool.strict);
  if (!is_name(tool.name))
    inner.refuse("name", fmt::format("must be 1 to {} letters, digits, _, - and .", kLongestName));
  if (const auto* parameters = inner.find("parameters")) {
    if (!parameters->is_object()) inner.refuse("parameters", "must be a JSON schema, an object");
    tool.parameters = *parameters;
  }
  return tool;
}

/// What tool_choice names, {"type": "function", "function": {"name": ...}}.
std::string named_in(const Json& choice) {
  const Fields fields(choice, "tool_choice.");
  std::string type, name;
  fields.read("type", type);
  const auto* function = fields.find("function");
  if (type != "function" || function == nullptr)
    fields.refuse("type", "must be \"function\", with the function's name");
  Fields(*function, "tool_choice.function.").read("name", name);
  return name;
}

}  // namespace

ToolRequest tools_of(const Fields& fields) {
  ToolRequest out;
  fields.read("parallel_tool_calls", out.parallel);
  const auto* list = fields.find("tools");
  if (list != nullptr && !list->is_array()) fields.refuse("tools", "must be an array");
  if (list != nullptr && list->size() > kMostTools)
    fields.refuse("tools", fmt::format("has {} functions, more than {}", list->size(), kMostTools));
  const bool any = list != nullptr && !list->empty();
  if (any) {
    for (const auto& tool : *list)
      out.tools.push_back(tool_of(tool, fmt::format("tools[{}]", out.tools.size())));
    out.json = list->dump();
    out.choice = ToolRequest::Choice::kAuto;
  }
  const auto* choice = fields.find("tool_choice");
  if (choice == nullptr || *choice == "auto") return out;
  if (*choice == "none") return {};
  if (!any) fields.refuse("tool_choice", "asks for a call, but there are no tools");
  out.choice = ToolRequest::Choice::kRequired;
  if (*choice == "required") return out;
  if (!choice->is_object()) fields.refuse("tool_choice", "must be none, auto, required, or name a function");
  const auto name = named_in(*choice);
  std::erase_if(out.tools, [&](const Tool& tool) { return tool.name != name; });
  if (out.tools.empty())
    fields.refuse("tool_choice", fmt::format("names \"{}\", which is none of the tools", name));
  return out;
}

std::vector<ToolCall> tool_calls_of(const Json& message, const std::string& where) {
  const Fields fields(message, where + ".");
  const auto* list = fields.find("tool_calls");
  if (list == nullptr) return {};
  if (!list->is_array() || list->size() > kMostCalls)
    fields.refuse("tool_calls", fmt::format("must be an array of at most {} calls", kMostCalls));
  std::vector<ToolCall> calls;
  for (const auto& json : *list) {
    const auto name = fmt::format("{}.tool_calls[{}]", where, calls.size());
    const Fields outer(json, name + ".");
    auto& call = calls.emplace_back();
    outer.read("id", call.id);
    const auto* function = outer.find("function");
    if (function == nullptr) outer.refuse("function", "is missing");
    const Fields inner(*function, name + ".function.");
    inner.read("name", call.name);
    if (!is_name(call.name)) inner.refuse("name", "must be a function's name");
    // Text in OpenAI's API; some clients send the object.
    const auto* arguments = inner.find("arguments");
    if (arguments != nullptr && !arguments->is_string() && !arguments->is_object())
      inner.refuse("arguments", "must be JSON text");
    if (arguments != nullptr)
      call.arguments = arguments->is_string() ? arguments->get<std::string>() : arguments->dump();
    if (call.arguments.find_first_not_of(" \t\r\n") == std::string::npos) call.arguments = "{}";
  }
  return calls;
}

}  // namespace windowkv::server
