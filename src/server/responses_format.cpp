#include "server/responses_format.h"

#include <algorithm>

#include "server/responses_request.h"

namespace windowkv::server {

namespace {

Json text_part(const std::string& text) {
  return {{"type", "output_text"}, {"text", text}, {"annotations", Json::array()}};
}

}  // namespace

ResponsesFormat::ResponsesFormat(ResponseHead head, const Json& body) : head_(std::move(head)) {
  for (const char* name : {"instructions", "max_output_tokens", "metadata", "temperature", "top_p"})
    repeated_[name] = body.value(name, Json());
  const auto tools = body.value("tools", Json());
  repeated_["tools"] = tools.is_null() ? Json::array() : tools;
  const auto choice = body.value("tool_choice", Json()), parallel = body.value("parallel_tool_calls", Json());
  repeated_["tool_choice"] = choice.is_null() ? Json("auto") : choice;
  repeated_["parallel_tool_calls"] = parallel.is_null() ? Json(true) : parallel;
}

Json ResponsesFormat::response(const char* status) const {
  Json out{{"id", "resp_" + head_.id}, {"object", "response"},    {"created_at", head_.created},
           {"status", status},         {"error", nullptr},        {"incomplete_details", nullptr},
           {"model", head_.model},     {"output", Json::array()}, {"usage", nullptr}};
  out.update(repeated_);
  return out;
}

Json ResponsesFormat::message(const char* status, const Json& content) const {
  return {{"type", "message"},
          {"id", "msg_" + head_.id},
          {"status", status},
          {"role", "assistant"},
          {"content", content}};
}

Json ResponsesFormat::call_item(const ToolCall& call, const char* status,
                                const std::string& arguments) const {
  return {{"type", "function_call"}, {"id", "fc_" + call.id},  {"call_id", call.id},
          {"name", call.name},       {"arguments", arguments}, {"status", status}};
}

Json ResponsesFormat::reasoning_item(const std::string& text) const {
  return {{"type", "reasoning"},
          {"id", "rs_" + head_.id},
          {"summary", Json::array()},
          {"content", Json::array({{{"type", "reasoning_text"}, {"text", text}}})}};
}

Json ResponsesFormat::finished(const Json& output, StopReason reason, const Usage& usage) const {
  const bool whole = reason != StopReason::kLength;
  auto out = response(whole ? "completed" : "incomplete");
  if (!whole) out["incomplete_details"] = {{"reason", "max_output_tokens"}};
  out["output"] = output;
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
  const auto reason = choice.finished.value_or(StopReason::kEnd);
  const char* status = reason == StopReason::kLength ? "incomplete" : "completed";
  auto output = Json::array();
  if (!choice.reasoning.empty()) output.push_back(reasoning_item(choice.reasoning));
  if (!choice.text.empty() || (output.empty() && choice.calls.empty()))
    output.push_back(message(status, Json::array({text_part(choice.text)})));
  for (const auto& call : choice.calls) output.push_back(call_item(call, "completed", call.arguments));
  return finished(output, reason, usage);
}

std::string ResponsesFormat::numbered(const std::string& type, const Json& fields) {
  Json event{{"type", type}, {"sequence_number", number_++}};
  event.update(fields);
  return sse(event, type);
}

ApiError ResponsesFormat::in_its_words(const ApiError& error) const {
  return in_words_of_responses(error);
}

Json ResponsesFormat::place(const std::string& item) const {
  return {{"item_id", item}, {"output_index", output_.size()}};
}

std::string ResponsesFormat::begin() {
  const Json started{{"response", response("in_progress")}};
  // One after the other: each takes the next number.
  auto events = numbered("response.created", started);
  return events += numbered("response.in_progress", started);
}

std::string ResponsesFormat::begin_message() {
  if (std::exchange(in_message_, true)) return "";
  text_.clear();
  auto part = place("msg_" + head_.id);
  part.update({{"content_index", 0}, {"part", text_part("")}});
  auto events = numbered("response.output_item.added",
                         {{"output_index", output_.size()}, {"item", message("in_progress", Json::array())}});
  return events += numbered("response.content_part.added", part);
}

/// The whole of it at once.
std::string ResponsesFormat::end_reasoning() {
  if (reasoning_.empty()) return "";
  const auto item = reasoning_item(std::exchange(reasoning_, ""));
  auto events = numbered("response.output_item.added", {{"output_index", output_.size()}, {"item", item}});
  events += numbered("response.output_item.done", {{"output_index", output_.size()}, {"item", item}});
  output_.push_back(item);
  return events;
}

std::string ResponsesFormat::end_message() {
  if (!std::exchange(in_message_, false)) return "";
  auto text = place("msg_" + head_.id);
  text["content_index"] = 0;
  auto part = text;
  text.update({{"text", text_}, {"logprobs", Json::array()}});
  part["part"] = text_part(text_);
  const char* status = reason_ == StopReason::kLength ? "incomplete" : "completed";
  const auto item = message(status, Json::array({text_part(text_)}));
  auto events = numbered("response.output_text.done", text);
  events += numbered("response.content_part.done", part);
  events += numbered("response.output_item.done", {{"output_index", output_.size()}, {"item", item}});
  output_.push_back(item);
  return events;
}

std::string ResponsesFormat::call_events(const ToolCall& call) {
  auto delta = place("fc_" + call.id), done = delta;
  delta["delta"] = call.arguments;
  done.update({{"name", call.name}, {"arguments", call.arguments}});
  const auto item = call_item(call, "completed", call.arguments);
  const auto index = output_.size();
  auto events = numbered("response.output_item.added",
                         {{"output_index", index}, {"item", call_item(call, "in_progress", "")}});
  events += numbered("response.function_call_arguments.delta", delta);
  events += numbered("response.function_call_arguments.done", done);
  events += numbered("response.output_item.done", {{"output_index", index}, {"item", item}});
  output_.push_back(item);
  return events;
}

std::string ResponsesFormat::event(int, const Delta& delta, bool) {
  std::string events;
  if (delta.finished) reason_ = *delta.finished;
  reasoning_ += delta.reasoning;
  if (!delta.text.empty() || !delta.calls.empty()) events += end_reasoning();
  if (!delta.text.empty()) {
    events += begin_message();
    text_ += delta.text;
    auto event = place("msg_" + head_.id);
    event.update({{"content_index", 0}, {"delta", delta.text}, {"logprobs", Json::array()}});
    events += numbered("response.output_text.delta", event);
  }
  for (const auto& call : delta.calls) {
    events += end_message();
    events += call_events(call);
  }
  return events.empty() ? ":\n\n" : events;  // a comment
}

std::string ResponsesFormat::end(const Usage& usage) {
  auto events = end_reasoning();
  if (output_.empty()) events += begin_message();  // there is always something
  events += end_message();
  return events + numbered(reason_ == StopReason::kLength ? "response.incomplete" : "response.completed",
                           {{"response", finished(output_, reason_, usage)}});
}

}  // namespace windowkv::server
