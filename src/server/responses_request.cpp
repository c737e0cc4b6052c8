#include "server/responses_request.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

#include "server/fields.h"

namespace windowkv::server {

namespace {

void refuse_if_given(const Fields& fields, const char* name) {
  const auto* field = fields.find(name);
  if (field == nullptr || *field == false || (field->is_array() && field->empty())) return;
  fields.refuse(name, "is not supported; send the whole conversation as input");
}

/// The call of an item, for the message that makes it.
Json call_of(const Json& item) {
  return {
      {"id", item.value("call_id", Json())},
      {"type", "function"},
      {"function", {{"name", item.value("name", Json())}, {"arguments", item.value("arguments", Json())}}}};
}

/// Calls belong to the assistant's message before them, as the model wrote them.
void add_call(Json& messages, const Json& item) {
  if (messages.empty() || !messages.back().is_object() ||
      messages.back().value("role", Json()) != "assistant")
    messages.push_back({{"role", "assistant"}, {"content", nullptr}});
  messages.back()["tool_calls"].push_back(call_of(item));
}

/// The text of a reasoning item; "" where it has none, as with models that do not tell theirs.
std::string reasoning_of(const Json& item) {
  std::string text;
  const auto content = item.value("content", Json());
  if (content.is_array())
    for (const auto& part : content)
      if (part.is_object() && part.value("text", Json()).is_string()) text += part["text"].get<std::string>();
  return text;
}

/// `reasoning`: of the item before, which belongs to the message or call behind it.
void add_item(Json& messages, const Json& item, const std::string& where, std::string& reasoning) {
  const auto type = item.is_object() ? item.value("type", Json("message")) : Json();
  const auto thought = std::exchange(reasoning, "");
  if (type == "message" || type == "function_call") {
    if (type == "message")
      messages.push_back(item);
    else
      add_call(messages, item);
    if (!thought.empty() && messages.back().is_object() &&
        messages.back().value("role", Json()) == "assistant")
      messages.back()["reasoning_content"] = thought;
  } else if (type == "function_call_output")
    messages.push_back({{"role", "tool"},
                        {"tool_call_id", item.value("call_id", Json())},
                        {"content", item.value("output", Json())}});
  else if (type == "reasoning")
    reasoning = reasoning_of(item);
  else
    throw ApiError(400, where + " is neither a message nor a function's call or its output", "input");
}

Json messages_of(const Fields& fields) {
  auto messages = Json::array();
  if (const auto* instructions = fields.find("instructions"))
    messages.push_back({{"role", "system"}, {"content", *instructions}});
  const auto* input = fields.find("input");
  if (input != nullptr && input->is_string()) {
    messages.push_back({{"role", "user"}, {"content", *input}});
    return messages;
  }
  if (input == nullptr || !input->is_array() || input->empty())
    fields.refuse("input", "must be text or an array of messages");
  size_t i = 0;
  std::string reasoning;
  for (const auto& item : *input) add_item(messages, item, fmt::format("input[{}]", i++), reasoning);
  return messages;
}

/// A function without the "function" around it, as chats have it.
Json wrapped(const Json& function) {
  Json inner = function;
  inner.erase("type");
  return {{"type", "function"}, {"function", inner}};
}

void add_tools(const Fields& fields, Json& chat) {
  if (const auto* tools = fields.find("tools")) {
    if (!tools->is_array()) fields.refuse("tools", "must be an array");
    auto list = Json::array();
    for (const auto& tool : *tools) {
      if (!tool.is_object() || tool.value("type", Json()) != "function")
        fields.refuse("tools", "has something that is no function: no other tools are there");
      list.push_back(wrapped(tool));
    }
    chat["tools"] = std::move(list);
  }
  if (const auto* choice = fields.find("tool_choice"))
    chat["tool_choice"] =
        choice->is_object() && choice->value("type", Json()) == "function" ? wrapped(*choice) : *choice;
}

}  // namespace

Json chat_body_of(const Json& body) {
  const Fields fields(body);
  for (const char* name : {"previous_response_id", "conversation", "background", "prompt"})
    refuse_if_given(fields, name);
  Json chat{{"messages", messages_of(fields)}};
  for (const char* name : {"model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stream", "kv",
                           "grammar", "chat_template_kwargs", "reasoning_format", "repeat_penalty",
                           "presence_penalty", "frequency_penalty", "parallel_tool_calls"})
    if (const auto* field = fields.find(name)) chat[name] = *field;
  if (const auto* most = fields.find("max_output_tokens")) chat["max_tokens"] = *most;
  if (const auto* text = fields.find("text")) {
    if (const auto* format = Fields(*text, "text.").find("format")) chat["response_format"] = *format;
  }
  add_tools(fields, chat);
  int answers = 1;
  fields.read("n", answers, 1, 1);
  return chat;
}

ApiError in_words_of_responses(const ApiError& error) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kNames = {
      {{"messages", "input"}, {"max_tokens", "max_output_tokens"}, {"response_format", "text.format"}}};
  for (const auto& [chats, ours] : kNames) {
    if (!error.param.starts_with(chats)) continue;
    // Without the number of a message: the input has others.
    std::string message = error.what();
    if (const auto at = message.find(error.param); at != std::string::npos)
      message.replace(at, error.param.size(), ours);
    ApiError out(error.status, message, std::string(ours), error.code);
    out.retry_after = error.retry_after;
    return out;
  }
  return error;
}

}  // namespace windowkv::server
