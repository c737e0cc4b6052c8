#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "server/answer.h"
#include "server/json.h"
#include "server/request.h"

namespace windowkv::server {

/// What all parts of a response to one request have in common.
struct ResponseHead {
  bool chat = false;
  std::string id;       ///< "chatcmpl-..." or "cmpl-..."
  std::string model;    ///< as /v1/models names it
  int64_t created = 0;  ///< seconds since 1970
};

/// An answer to a request, put together from its deltas.
struct ChoiceText {
  std::string text;
  std::string reasoning = {};
  std::vector<ToolCall> calls = {};
  std::vector<TokenLogprob> logprobs;
  bool prompt_unscored = false;  ///< the first token of `logprobs` has none: nothing stands before it
  std::optional<StopReason> finished;
};

/// The usage of several jobs together; what is told of the KV cache is the first one's, its bytes are sums.
Usage sum_of(std::span<const Usage> usages);
Json usage_json(const Usage& usage);

/// The shape of one endpoint's responses, and what one of them has said.
class ResponseFormat {
 public:
  virtual ~ResponseFormat() = default;
  /// The body of a response that is not streamed.
  virtual Json whole(std::span<const ChoiceText> choices, const Usage& usage) const = 0;
  /// The error with the names that the endpoint has for fields of a chat.
  virtual ApiError in_its_words(const ApiError& error) const { return error; }
  // Of a stream, server-sent events:
  virtual std::string begin() { return ""; }
  /// `first`: nothing was said of the choice before.
  virtual std::string event(int choice, const Delta& delta, bool first) = 0;
  virtual std::string end(const Usage& usage) = 0;
};

/// Of /v1/completions and /v1/chat/completions.
class CompletionFormat final : public ResponseFormat {
 public:
  /// The vocabulary must outlive it.
  CompletionFormat(ResponseHead head, const CompletionRequest& request, const Vocab& vocab);
  Json whole(std::span<const ChoiceText> choices, const Usage& usage) const override;
  std::string event(int choice, const Delta& delta, bool first) override;
  std::string end(const Usage& usage) override;

 private:
  Json chunk(int choice, const Json& said, const Delta& delta);
  std::string chat_events(int choice, const Delta& delta, bool first);

  ResponseHead head_;
  bool logprobs_;
  bool include_usage_;
  std::map<int, int> calls_;       ///< how many of each choice were streamed
  std::map<int, size_t> offsets_;  ///< characters of each choice's text before what is streamed next
  const Vocab& vocab_;
};

/// Numbers from 0 to 255.
Json bytes_json(std::string_view bytes);
/// OpenAI's error object.
Json error_json(const ApiError& error);

/// As text; bytes that are not UTF-8 are replaced.
std::string text_of(const Json& json);
/// As a server-sent event, with a name or without one.
std::string sse(const Json& json, const std::string& event = "");

}  // namespace windowkv::server
