#pragma once

#include <functional>
#include <string>
#include <vector>

#include "windowkv/vocab.h"

namespace windowkv {

/// Jinja source and what it may name.
struct ChatTemplate {
  std::string source;  ///< or the name of one of llama.cpp's
  std::string bos, eos;
};

/// The messages in the template's form, ending where the assistant begins. Where a template takes no system
/// message, that becomes the beginning of the first user message. Where minja cannot render a template and
/// llama.cpp knows its form without Jinja, that is used, and `warning` told. Throws Error where neither
/// works.
std::string apply(const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
                  const std::function<void(const std::string& line)>& warning);

}  // namespace windowkv
