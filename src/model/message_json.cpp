#include "model/message_json.h"

#include <nlohmann/json.hpp>

#include "model/tool_text.h"
#include "support/bounded_json.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

using nlohmann::ordered_json;

ordered_json arguments_json(const ToolCall& call, const MessageStyle& style) {
  if (style.text_arguments) return call.arguments;
  try {
    return parse_bounded_json(call.arguments);
  } catch (const Error&) {
    return call.arguments;
  }
}

ordered_json content_json(const ChatMessage& message, const MessageStyle& style) {
  auto text = message.content;
  if (style.reasoning_text && !message.reasoning.empty())
    text = "<think>\n" + message.reasoning + "\n</think>\n\n" + text;
  if (style.reasoning_alone && !message.reasoning.empty() && !message.tool_calls.empty()) text.clear();
  const bool part = style.reasoning_part && !message.reasoning.empty();
  if (text.empty() && !part && !message.tool_calls.empty())
    return style.text_content ? ordered_json("") : ordered_json();
  if (!style.typed && !part) return text;
  auto parts = ordered_json::array();
  if (part) parts.push_back({{"type", "thinking"}, {"thinking", message.reasoning}});
  if (!text.empty() || parts.empty()) parts.push_back({{"type", "text"}, {"text", text}});
  return parts;
}

ordered_json message_json(const std::vector<ChatMessage>& messages, const ChatMessage& message,
                          const MessageStyle& style) {
  ordered_json out{{"role", message.role}, {"content", content_json(message, style)}};
  if (!message.reasoning.empty())
    for (const auto& name : style.reasoning_members) out[name] = message.reasoning;
  for (const auto& call : message.tool_calls)
    out["tool_calls"].push_back(
        {{"id", call.id},
         {"type", "function"},
         {"function", {{"name", call.name}, {"arguments", arguments_json(call, style)}}}});
  if (message.role == "tool") {
    out["tool_call_id"] = message.tool_call_id;
    out["name"] = called_name(messages, message);
  }
  return out;
}

}  // namespace

ordered_json messages_json(const std::vector<ChatMessage>& messages, const MessageStyle& style) {
  auto list = ordered_json::array();
  for (const auto& message : messages) list.push_back(message_json(messages, message, style));
  return list;
}

}  // namespace windowkv
