// Bodies of requests to the server.
#include <nlohmann/json.hpp>

#include "input.h"
#include "server/api_error.h"
#include "server/request.h"

using namespace windowkv;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const bool chat : {false, true}) try {
      const auto body = server::parse_body(std::string(fuzz::text_of(data, size)));
      const auto request = server::parse_completion(body, chat, {});
      fuzz::require(chat ? !request.messages.empty() : !request.prompts.empty(), "nothing is asked");
      fuzz::require(request.choices >= 1 && request.generate.max_tokens >= -1, "numbers out of range");
      request.generate.sampling.validate();
    } catch (const server::ApiError& e) {
      fuzz::require(*e.what() != '\0' && e.status >= 400 && e.status < 500, "an error that says nothing");
    }
  return 0;
}
