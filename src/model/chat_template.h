#pragma once

#include <span>
#include <string>

#include "support/child.h"
#include "windowkv/vocab.h"

namespace windowkv {

/// The messages through a Jinja template, up to where the assistant begins. A template comes from wherever
/// the model does, and minja, which runs it, crashes over some: so it runs in a child process. Throws Error
/// where it fails or exceeds the limits, to which the messages' sizes are added.
std::string render_chat_template(const std::string& source, const std::string& bos, const std::string& eos,
                                 std::span<const ChatMessage> messages, ChildLimits limits = {});

/// The same in this process and without limits, for templates that are known. Throws std::exception where it
/// fails.
std::string render_chat_template_here(const std::string& source, const std::string& bos,
                                      const std::string& eos, std::span<const ChatMessage> messages);

}  // namespace windowkv
