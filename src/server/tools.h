#pragma once

#include <string>
#include <vector>

#include "server/fields.h"
#include "windowkv/vocab.h"

namespace windowkv::server {

/// A function that the model may call.
struct Tool {
  std::string name;
  Json parameters;      ///< a JSON schema, or null
  bool strict = false;  ///< the schema must hold where calls are constrained
};

/// What a request says of tools.
struct ToolRequest {
  enum class Choice {
    kNone,      ///< the model is told of none
    kAuto,      ///< it calls what it likes, or answers
    kRequired,  ///< it calls at least one
  };
  std::vector<Tool> tools;
  std::string json;  ///< the request's array, as Vocab::apply_chat_template takes it; empty: none
  Choice choice = Choice::kNone;
  bool parallel = true;  ///< an answer may have several calls

  bool active() const { return choice != Choice::kNone; }
};

/// `tools`, `tool_choice` and `parallel_tool_calls` of a chat's body. A function that `tool_choice` names is
/// required and the only one that may be called, though the model is told of all. Throws ApiError.
ToolRequest tools_of(const Fields& fields);

/// `tool_calls` of a message of the assistant. `where`: the message, in errors. Throws ApiError.
std::vector<ToolCall> tool_calls_of(const Json& message, const std::string& where);

}  // namespace windowkv::server
