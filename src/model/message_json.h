#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "windowkv/vocab.h"

namespace windowkv {

/// How a chat template takes messages: templates differ in it.
struct MessageStyle {
  bool typed = false;           ///< contents are lists of parts
  bool text_arguments = false;  ///< arguments of calls are JSON text; else objects
  bool text_content = false;    ///< a message of calls alone has the content ""; else null
  /// Members of a message that hold its reasoning; empty: none.
  std::vector<std::string> reasoning_members = {};
  bool reasoning_part = false;   ///< reasoning is a part of the content, {"type": "thinking", ...}
  bool reasoning_text = false;   ///< reasoning stands in the content, marked as the model writes it
  bool reasoning_alone = false;  ///< a message of calls has reasoning or content; else both
};

/// The messages as a template of that style reads them. Reasoning for which the style has no place is left
/// out, as those templates show none.
nlohmann::ordered_json messages_json(const std::vector<ChatMessage>& messages, const MessageStyle& style);

}  // namespace windowkv
