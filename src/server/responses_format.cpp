#include "server/responses_format.h"

#include "server/api_error.h"

namespace windowkv::server {

namespace {

void refuse_if_given(const Json& body, const char* name) {
  const auto it = body.find(name);
  if (it == body.end() || it->is_null() || *it == false || (it->is_array() && it->empty())) return;
  throw ApiError(400, std::string(name) + " is not supported; send the whole conversation as input", name);
}

Json text_part(const std::string& text) {
  return {{"type", "output_text"}, {"text", text}, {"annotations", Json::array()}};
}

Json messages_of(const Json& body) {
  auto messages = Json::array();
  if (const auto it = body.find("instructions"); it != body.end() && !it->is_null())
    messages.push_back({{"role", "system"}, {"content", *it}});
  const auto input = body.value("input", Json());
  if (input.is_string()) {
    messages.push_back({{"role", "user"}, {"content", input}});
    return messages;
  }
  if (!input.is_array() || input.empty())
    throw ApiError(400, "input must be text or an array of messages", "input");
  for (const auto& item : input) {
    if (item.is_object() && item.value("type", Json("message")) != "message")
      throw ApiError(400, "input has an item that is no message", "input");
    messages.push_back(item);
  }
  return messages;
}

}  // namespace

Json chat_body_of(const Json& body) {
  if (!body.is_object()) throw ApiError(400, "the body must be a JSON object");
  for (const char* name : {"previous_response_id", "conversation", "tools", "background"})
    refuse_if_given(body, name);
  Json chat{{"messages", messages_of(body)}};
  for (const char* name : {"model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stream", "kv",
                           "grammar", "repeat_penalty", "presence_penalty", "frequency_penalty"})
    if (body.contains(name)) chat[name] = body[name];
  if (body.contains("max_output_tokens")) chat["max_tokens"] = body["max_output_tokens"];
  const auto text = body.find("text");
  if (text != body.end() && !text->is_null() && !text->is_object())
    throw ApiError(400, "text must be an object", "text");
  if (text != body.end() && text->contains("format")) chat["response_format"] = (*text)["format"];
  return chat;
}

ResponsesFormat::ResponsesFormat(ResponseHead head, const Json& body) : head_(std::move(head)) {
  for (const char* name : {"instructions", "max_output_tokens", "metadata", "temperature", "top_p"})
    repeated_[name] = body.value(name, Json());
}

Json ResponsesFormat::response(const char* status) const {
  Json out{{"id", "resp_" + head_.id}, {"object", "response"},    {"created_at", head_.created},
           {"status", status},         {"error", nullptr},        {"incomplete_details", nullptr},
           {"model", head_.model},     {"output", Json::array()}, {"parallel_tool_calls", false},
           {"tool_choice", "none"},    {"tools", Json::array()},  {"usage", nullptr}};
  out.update(repeated_);
  return out;
}

Json ResponsesFormat::message(const char* status) const {
  return {{"type", "message"},
          {"id", "msg_" + head_.id},
          {"status", status},
          {"role", "assistant"},
          {"content", Json::array()}};
}

Json ResponsesFormat::finished(const std::string& text, StopReason reason, const Usage& usage) const {
  const bool whole = reason != StopReason::kLength;
  const char* status = whole ? "completed" : "incomplete";
  auto out = response(status);
  if (!whole) out["incomplete_details"] = {{"reason", "max_output_tokens"}};
  auto said = message(status);
  said["content"].push_back(text_part(text));
  out["output"].push_back(std::move(said));
  const auto told = usage_json(usage);
  out["usage"] = {{"input_tokens", usage.prompt_tokens},
                  {"input_tokens_details", told["prompt_tokens_details"]},
                  {"output_tokens", usage.completion_tokens},
                  {"output_tokens_details", {{"reasoning_tokens", 0}}},
                  {"total_tokens", told["total_tokens"]},
                  {"kv", told["kv"]},
                  {"timings", told["timings"]}};
  return out;
}

Json ResponsesFormat::whole(std::span<const ChoiceText> choices, const Usage& usage) const {
  const auto& choice = choices.front();
  return finished(choice.text, choice.finished.value_or(StopReason::kEnd), usage);
}

Json ResponsesFormat::place() const {
  return {{"item_id", "msg_" + head_.id}, {"output_index", 0}, {"content_index", 0}};
}

std::string ResponsesFormat::numbered(const std::string& type, const Json& fields) {
  Json event{{"type", type}, {"sequence_number", number_++}};
  event.update(fields);
  return sse(event, type);
}

std::string ResponsesFormat::begin() {
  const Json started{{"response", response("in_progress")}};
  auto part = place();
  part["part"] = text_part("");
  // One after the other: each takes the next number.
  auto events = numbered("response.created", started);
  events += numbered("response.in_progress", started);
  events += numbered("response.output_item.added", {{"output_index", 0}, {"item", message("in_progress")}});
  return events + numbered("response.content_part.added", part);
}

std::string ResponsesFormat::event(int, const Delta& delta, bool) {
  text_ += delta.text;
  if (delta.finished) reason_ = *delta.finished;
  if (delta.text.empty()) return ":\n\n";  // a comment
  auto event = place();
  event.update({{"delta", delta.text}, {"logprobs", Json::array()}});
  return numbered("response.output_text.delta", event);
}

std::string ResponsesFormat::end(const Usage& usage) {
  const auto out = finished(text_, reason_, usage);
  auto text = place(), part = place();
  text.update({{"text", text_}, {"logprobs", Json::array()}});
  part["part"] = text_part(text_);
  auto events = numbered("response.output_text.done", text);
  events += numbered("response.content_part.done", part);
  events += numbered("response.output_item.done", {{"output_index", 0}, {"item", out["output"][0]}});
  return events + numbered(reason_ == StopReason::kLength ? "response.incomplete" : "response.completed",
                           {{"response", out}});
}

}  // namespace windowkv::server
