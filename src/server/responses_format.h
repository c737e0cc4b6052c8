#pragma once

#include <nlohmann/json.hpp>

#include "server/response.h"

namespace windowkv::server {

/// The body of a chat completion that asks for what a body of /v1/responses asks for. Throws ApiError for
/// what is not supported: earlier responses by their id, tools, input that is no text.
Json chat_body_of(const Json& body);

/// Of /v1/responses: one message of one text.
class ResponsesFormat final : public ResponseFormat {
 public:
  /// `body`: of the request, some of whose fields are repeated.
  ResponsesFormat(ResponseHead head, const Json& body);
  Json whole(std::span<const ChoiceText> choices, const Usage& usage) const override;
  std::string begin() override;
  std::string event(int choice, const Delta& delta, bool first) override;
  std::string end(const Usage& usage) override;

 private:
  Json response(const char* status) const;
  Json finished(const std::string& text, StopReason reason, const Usage& usage) const;
  Json message(const char* status) const;
  /// Where the text is in the response.
  Json place() const;
  std::string numbered(const std::string& type, const Json& fields);

  ResponseHead head_;
  Json repeated_;
  std::string text_;  ///< streamed so far
  StopReason reason_ = StopReason::kEnd;
  int number_ = 0;
};

}  // namespace windowkv::server
