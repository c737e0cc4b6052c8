#pragma once

#include "server/api_error.h"
#include "server/json.h"

namespace windowkv::server {

/// The body of a chat completion that asks for what a body of /v1/responses asks for. Throws ApiError for
/// what is not supported: earlier responses by their id, tools that are no functions, input that is no text.
Json chat_body_of(const Json& body);

/// What is wrong with that body, in the names that fields have here.
ApiError in_words_of_responses(const ApiError& error);

}  // namespace windowkv::server
