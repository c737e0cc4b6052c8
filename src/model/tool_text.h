#pragma once

#include <string>
#include <vector>

#include "windowkv/vocab.h"

namespace windowkv {

/// Whether the messages have calls of tools, or results of such.
bool has_calls(const std::vector<ChatMessage>& messages);

/// The name of the tool whose call a message of role "tool" answers; "" where no message before it has that
/// call.
std::string called_name(const std::vector<ChatMessage>& messages, const ChatMessage& result);

/// The same conversation for a chat template that knows nothing of tools: the system message describes them
/// and asks for calls of the form {"name": ..., "arguments": {...}}, in which the assistant's earlier calls
/// are written too, and results are the user's. `tools`: as Vocab::apply_chat_template takes them.
std::vector<ChatMessage> without_tools(const std::vector<ChatMessage>& messages, const std::string& tools);

}  // namespace windowkv
