#include "server/response.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "support/utf8.h"

namespace windowkv::server {

namespace {

const char* finish_reason(StopReason reason) {
  return reason == StopReason::kLength ? "length" : "stop";
}

Json finish_json(const std::optional<StopReason>& reason, bool calls) {
  if (!reason) return {};
  return calls && *reason != StopReason::kLength ? "tool_calls" : finish_reason(*reason);
}

Json call_json(const ToolCall& call, const std::string& arguments) {
  return {
      {"id", call.id}, {"type", "function"}, {"function", {{"name", call.name}, {"arguments", arguments}}}};
}

Json message_json(const ChoiceText& choice) {
  const bool calls_alone = choice.text.empty() && !choice.calls.empty();
  Json message{{"role", "assistant"}, {"content", calls_alone ? Json() : Json(choice.text)}};
  if (!choice.reasoning.empty()) message["reasoning_content"] = choice.reasoning;
  for (const auto& call : choice.calls) message["tool_calls"].push_back(call_json(call, call.arguments));
  return message;
}

Json token_json(const Vocab& vocab, Token token, float logprob) {
  const auto piece = vocab.piece(token, /*special=*/true);
  return {{"token", piece}, {"logprob", logprob}, {"bytes", bytes_json(piece)}};
}

Json chat_logprobs(const Vocab& vocab, const std::vector<TokenLogprob>& logprobs) {
  auto content = Json::array();
  for (const auto& token : logprobs) {
    auto entry = token_json(vocab, token.token, token.logprob);
    auto& top = entry["top_logprobs"] = Json::array();
    for (const auto& [other, logprob] : token.top) top.push_back(token_json(vocab, other, logprob));
    content.push_back(std::move(entry));
  }
  return {{"content", content}};
}

/// `offset`: characters of the text before the tokens, and then before those that follow.
Json text_logprobs(const Vocab& vocab, const ChoiceText& choice, size_t& offset) {
  auto tokens = Json::array(), values = Json::array(), tops = Json::array(), offsets = Json::array();
  bool scored = !choice.prompt_unscored;
  for (const auto& token : choice.logprobs) {
    const auto piece = vocab.piece(token.token, /*special=*/true);
    tokens.push_back(piece);
    values.push_back(scored ? Json(token.logprob) : Json());
    auto top = Json::object();
    for (const auto& [other, logprob] : token.top) top[vocab.piece(other, /*special=*/true)] = logprob;
    tops.push_back(scored ? top : Json());
    offsets.push_back(offset);
    offset += utf8_characters(vocab.piece(token.token));  // marks such as the beginning's are not in the text
    scored = true;
  }
  return {{"tokens", tokens}, {"token_logprobs", values}, {"top_logprobs", tops}, {"text_offset", offsets}};
}

Json head_json(const ResponseHead& head, const char* object) {
  return {{"id", head.id}, {"object", object}, {"created", head.created}, {"model", head.model}};
}

const char* error_type(int status) {
  if (status == 401) return "authentication_error";
  if (status == 404) return "not_found_error";
  if (status == 429) return "rate_limit_error";
  return status < 500 ? "invalid_request_error" : "server_error";
}

}  // namespace

Usage sum_of(std::span<const Usage> usages) {
  Usage sum = usages.front();
  for (const auto& usage : usages.subspan(1)) {
    for (auto field :
         {&Usage::prompt_tokens, &Usage::cached_tokens, &Usage::completion_tokens, &Usage::kept_bytes,
          &Usage::full_bytes, &Usage::stored_bytes, &Usage::recalls, &Usage::evictions})
      sum.*field += usage.*field;
    sum.prompt_ms += usage.prompt_ms;
    sum.decode_ms = std::max(sum.decode_ms, usage.decode_ms);
  }
  return sum;
}

Json usage_json(const Usage& usage) {
  Json json{{"prompt_tokens", usage.prompt_tokens},
            {"completion_tokens", usage.completion_tokens},
            {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
            {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
            {"kv",
             {{"policy", usage.policy},
              {"budget", usage.budget.empty() ? Json() : Json(usage.budget)},
              {"task", usage.task.empty() ? Json() : Json(usage.task)},
              {"total", usage.total > 0 ? Json(usage.total) : Json()},
              {"kept_tokens", usage.kept_tokens},
              {"kept_bytes", usage.kept_bytes},
              {"full_bytes", usage.full_bytes},
              {"stored_bytes", usage.stored_bytes},
              {"chosen_again", usage.recalls},
              {"evictions", usage.evictions}}},
            {"timings", {{"prompt_ms", usage.prompt_ms}, {"predicted_ms", usage.decode_ms}}}};
  if (!usage.kept_text.empty()) json["kv"]["kept_text"] = usage.kept_text;
  return json;
}

CompletionFormat::CompletionFormat(ResponseHead head, const CompletionRequest& request, const Vocab& vocab)
    : head_(std::move(head)),
      logprobs_(request.top_logprobs >= 0),
      include_usage_(request.include_usage),
      vocab_(vocab) {}

Json CompletionFormat::whole(std::span<const ChoiceText> choices, const Usage& usage) const {
  auto out = head_json(head_, head_.chat ? "chat.completion" : "text_completion");
  auto& list = out["choices"] = Json::array();
  for (const auto& choice : choices) {
    size_t before = 0;
    Json one{{"index", list.size()}};
    if (head_.chat)
      one["message"] = message_json(choice);
    else
      one["text"] = choice.text;
    one["logprobs"] = !logprobs_   ? Json()
                      : head_.chat ? chat_logprobs(vocab_, choice.logprobs)
                                   : text_logprobs(vocab_, choice, before);
    one["finish_reason"] = finish_json(choice.finished, !choice.calls.empty());
    list.push_back(std::move(one));
  }
  out["usage"] = usage_json(usage);
  return out;
}

/// `said`: the choice's "delta" or "text".
Json CompletionFormat::chunk(int choice, const Json& said, const Delta& delta) {
  auto out = head_json(head_, head_.chat ? "chat.completion.chunk" : "text_completion");
  Json one{{"index", choice}, {head_.chat ? "delta" : "text", said}};
  one["logprobs"] = !logprobs_ || delta.logprobs.empty() ? Json()
                    : head_.chat
                        ? chat_logprobs(vocab_, delta.logprobs)
                        : text_logprobs(vocab_, {.text = {}, .logprobs = delta.logprobs}, offsets_[choice]);
  const auto calls = calls_.find(choice);
  one["finish_reason"] = finish_json(delta.finished, calls != calls_.end());
  out["choices"] = Json::array({std::move(one)});
  return out;
}

/// Calls as OpenAI streams them: their names, then their arguments, in a part each; the end comes last.
std::string CompletionFormat::chat_events(int choice, const Delta& delta, bool first) {
  std::string events;
  Json said = Json::object();
  if (first) said["role"] = "assistant";
  if (!delta.reasoning.empty()) said["reasoning_content"] = delta.reasoning;
  if (first || !delta.text.empty())
    said["content"] =
        delta.text.empty() && !(delta.calls.empty() && delta.reasoning.empty()) ? Json() : Json(delta.text);
  if (delta.calls.empty()) return sse(chunk(choice, said, delta));
  auto part = delta;
  part.finished = std::nullopt;
  if (!said.empty()) events += sse(chunk(choice, said, part));
  part.logprobs.clear();
  for (const auto& call : delta.calls) {
    const int index = calls_[choice]++;
    Json name{{"index", index}}, arguments{{"index", index}, {"function", {{"arguments", call.arguments}}}};
    name.update(call_json(call, ""));
    for (const auto& one : {name, arguments})
      events += sse(chunk(choice, {{"tool_calls", Json::array({one})}}, part));
  }
  part.finished = delta.finished;
  return delta.finished ? events + sse(chunk(choice, Json::object(), part)) : events;
}

std::string CompletionFormat::event(int choice, const Delta& delta, bool first) {
  if (head_.chat) return chat_events(choice, delta, first);
  if (first) {  // after an echo
    size_t own = 0;
    for (const auto& token : delta.logprobs) own += utf8_characters(vocab_.piece(token.token));
    const size_t all = utf8_characters(delta.text);
    offsets_[choice] = all - std::min(all, own);
  }
  return sse(chunk(choice, delta.text, delta));
}

std::string CompletionFormat::end(const Usage& usage) {
  std::string last;
  if (include_usage_) {
    auto out = head_json(head_, head_.chat ? "chat.completion.chunk" : "text_completion");
    out["choices"] = Json::array();
    out["usage"] = usage_json(usage);
    last = sse(out);
  }
  return last + "data: [DONE]\n\n";
}

Json bytes_json(std::string_view bytes) {
  auto list = Json::array();
  for (const unsigned char byte : bytes) list.push_back(byte);
  return list;
}

Json error_json(const ApiError& error) {
  return {{"error",
           {{"message", error.what()},
            {"type", error_type(error.status)},
            {"param", error.param.empty() ? Json() : Json(error.param)},
            {"code", error.code.empty() ? Json() : Json(error.code)}}}};
}

std::string text_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string sse(const Json& json, const std::string& event) {
  return (event.empty() ? "" : fmt::format("event: {}\n", event)) + "data: " + text_of(json) + "\n\n";
}

}  // namespace windowkv::server
