// Bodies of requests to the server, and, as what a model may write, answers with calls of tools.
#include <nlohmann/json.hpp>

#include "input.h"
#include "server/api_error.h"
#include "server/call_parser.h"
#include "server/request.h"
#include "server/responses_request.h"

using namespace windowkv;

namespace {

void parse(const server::Json& body, bool chat) {
  const auto request = server::parse_completion(body, chat, {}, server::call_format("<tool_call>"));
  fuzz::require(chat ? !request.messages.empty() : !request.prompts.empty(), "nothing is asked");
  fuzz::require(request.choices >= 1 && request.generate.max_tokens >= -1, "numbers out of range");
  fuzz::require(request.tools.active() == !request.tools.tools.empty(), "tools that cannot be called");
  request.generate.sampling.validate();
}

template <typename Read>
void refuse_or(Read&& read) try {
  read();
} catch (const server::ApiError& e) {
  fuzz::require(*e.what() != '\0' && e.status >= 400 && e.status < 500, "an error that says nothing");
}

/// All of an answer comes out, in order: as text, or as calls whose arguments are objects.
void answer(std::string_view text) {
  const auto any = server::Json::parse(R"({"properties": {"x": {"type": ["integer", "null"]}}})");
  server::CallParser parser({{"f", any}, {"get_weather", nullptr}}, true);
  size_t shown = 0;
  const auto take = [&](const server::CallParser::Found& found) {
    shown += found.text.size();
    for (const auto& call : found.calls)
      fuzz::require(nlohmann::json::parse(call.arguments).is_object(), "arguments that are no object");
  };
  constexpr size_t kPiece = 5;
  for (size_t at = 0; at < text.size(); at += kPiece) take(parser.push(text.substr(at, kPiece)));
  take(parser.finish());
  fuzz::require(shown <= text.size(), "text that was not there");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto text = fuzz::text_of(data, size);
  for (const bool chat : {false, true})
    refuse_or([&] { parse(server::parse_body(std::string(text)), chat); });
  refuse_or([&] { parse(server::chat_body_of(server::parse_body(std::string(text))), true); });
  answer(text);
  return 0;
}
