#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "server/call_formats.h"
#include "server/json.h"
#include "server/tools.h"
#include "windowkv/generate.h"

namespace windowkv::server {

/// What a request's "kv" asks for; empty: the server's own.
struct KvRequest {
  std::optional<std::string> policy, budget, task, recall, total;
  bool show_kept = false;
};

/// The body of /v1/completions or /v1/chat/completions.
struct CompletionRequest {
  bool chat = false;
  std::string model;                                                   ///< empty: not named
  std::vector<ChatMessage> messages;                                   ///< of a chat
  ToolRequest tools;                                                   ///< of a chat
  std::vector<std::variant<std::string, std::vector<Token>>> prompts;  ///< of completions
  GenerateOptions generate;  ///< max_tokens −1: what the context leaves
  int choices = 1;
  bool stream = false;
  bool include_usage = false;
  bool echo = false;
  bool own_grammar = false;  ///< the grammar is the request's, not of a JSON format
  int top_logprobs = -1;     ///< −1: no logprobs
  KvRequest kv;
  std::string variables;                        ///< of a chat's template, a JSON object; empty: none
  std::optional<std::string> reasoning_format;  ///< as parse_reasoning_format() takes it
};

/// Whether reasoning is told apart from what answers say: "auto" and "deepseek", and not "none". Throws Error
/// for anything else.
bool parse_reasoning_format(const std::string& name);

/// Parses a body. Throws ApiError for what is not JSON.
Json parse_body(const std::string& body);

/// What a body asks for; fields it lacks are those of `defaults`. Fields that are not known are ignored, as
/// OpenAI's clients send many. Throws ApiError, which names the field, for a wrong type, a value out of
/// range, and what is not supported but would change the answer. `calls`: how the model writes calls of
/// tools.
CompletionRequest parse_completion(const Json& body, bool chat, const GenerateOptions& defaults,
                                   const CallFormat& calls = call_format(""));

/// Messages and tools as in a chat's body. Throws ApiError.
std::vector<ChatMessage> parse_messages(const Json& body);
ToolRequest parse_tools(const Json& body);
/// What a chat's template may name besides: chat_template_kwargs and reasoning_effort, as the text of an
/// object; "" for none. Throws ApiError.
std::string parse_variables(const Json& body);

/// A field that is true or false; `otherwise` where it is missing. Throws ApiError for something else.
bool optional_flag(const Json& body, const char* name, bool otherwise);

/// A field that is text. Throws ApiError where it is missing or something else.
std::string required_text(const Json& body, const std::string& name);

}  // namespace windowkv::server
