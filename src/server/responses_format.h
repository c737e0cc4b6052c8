#pragma once

#include <nlohmann/json.hpp>

#include "server/response.h"

namespace windowkv::server {

/// Of /v1/responses: one message of one text, and calls of tools.
class ResponsesFormat final : public ResponseFormat {
 public:
  /// `body`: of the request, some of whose fields are repeated.
  ResponsesFormat(ResponseHead head, const Json& body);
  Json whole(std::span<const ChoiceText> choices, const Usage& usage) const override;
  ApiError in_its_words(const ApiError& error) const override;
  std::string begin() override;
  std::string event(int choice, const Delta& delta, bool first) override;
  std::string end(const Usage& usage) override;

 private:
  Json response(const char* status) const;
  Json finished(const Json& output, StopReason reason, const Usage& usage) const;
  Json message(const char* status, const Json& content) const;
  Json call_item(const ToolCall& call, const char* status, const std::string& arguments) const;
  Json reasoning_item(const std::string& text) const;
  /// Where the item is in the response.
  Json place(const std::string& item) const;
  std::string numbered(const std::string& type, const Json& fields);
  // Events:
  std::string begin_message();
  std::string end_message();
  std::string call_events(const ToolCall& call);

  ResponseHead head_;
  Json repeated_;
  std::string end_reasoning();

  std::string reasoning_;        ///< that no item tells yet
  std::string text_;             ///< of the message, streamed so far
  bool in_message_ = false;      ///< it has begun, and not ended
  Json output_ = Json::array();  ///< items that are streamed in full
  StopReason reason_ = StopReason::kEnd;
  int number_ = 0;
};

}  // namespace windowkv::server
