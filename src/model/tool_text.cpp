#include "model/tool_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace windowkv {

namespace {

using Json = nlohmann::ordered_json;

std::string description_of(const std::string& tools) {
  std::string text = "You can call these functions:\n";
  for (const auto& tool : Json::parse(tools))
    text += (tool.contains("function") ? tool["function"] : tool).dump().append("\n");
  return text +
         "\nTo call one, answer with a JSON object of this form and nothing else:\n"
         "{\"name\": <name of the function>, \"arguments\": <object with its arguments>}\n"
         "You are then given its result. Where no function is needed, answer as usual.";
}

std::string written(const ToolCall& call) {
  return fmt::format(R"({{"name": {}, "arguments": {}}})", Json(call.name).dump(), call.arguments);
}

}  // namespace

bool has_calls(const std::vector<ChatMessage>& messages) {
  return std::ranges::any_of(messages,
                             [](const ChatMessage& m) { return m.role == "tool" || !m.tool_calls.empty(); });
}

std::string called_name(const std::vector<ChatMessage>& messages, const ChatMessage& result) {
  std::string name;
  for (const auto& message : messages) {
    if (&message == &result) break;
    for (const auto& call : message.tool_calls)
      if (call.id == result.tool_call_id) name = call.name;
  }
  return name;
}

std::vector<ChatMessage> without_tools(const std::vector<ChatMessage>& messages, const std::string& tools) {
  std::vector<ChatMessage> out;
  if (!tools.empty()) out.push_back({"system", description_of(tools)});
  bool behind_result = false;
  for (const auto& message : messages) {
    const bool result = message.role == "tool";
    if (result) {
      auto text = message.content;
      if (const auto name = called_name(messages, message); !name.empty())
        text = fmt::format("Result of {}:\n{}", name, text);
      // Many templates want the user and the assistant to take turns.
      if (behind_result)
        out.back().content.append("\n").append(text);
      else
        out.push_back({"user", std::move(text)});
    } else if (message.role == "system" && out.size() == 1 && &message == messages.data()) {
      out[0].content = message.content + "\n\n" + out[0].content;
    } else {
      std::string text = message.content;
      for (const auto& call : message.tool_calls) text.append(text.empty() ? "" : "\n").append(written(call));
      out.push_back({message.role, std::move(text)});
    }
    behind_result = result;
  }
  return out;
}

}  // namespace windowkv
