#pragma once

#include <functional>
#include <string>
#include <vector>

#include "support/child.h"
#include "windowkv/vocab.h"

namespace windowkv {

/// Jinja source and what it may name.
struct ChatTemplate {
  std::string source;  ///< or the name of one of llama.cpp's
  std::string bos, eos;
  std::string variables = {};  ///< a JSON object of further names; empty: none
};

/// llama.cpp's built-in chat templates.
std::vector<std::string> known_template_names();

/// The messages in the template's form, ending where the assistant begins. Where a template takes no system
/// message, that becomes the beginning of the first user message. A template comes from wherever the model
/// does, and minja crashes on some: it runs in a child process, to whose limits the messages' sizes are
/// added. If it cannot be parsed and llama.cpp has a built-in form of the template, that is used, and
/// `warning` is told. Throws Error where there is none, and for what the template refuses. `tools`: as
/// Vocab::apply_chat_template takes them.
std::string apply(const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
                  const std::string& tools, const std::function<void(const std::string& line)>& warning,
                  ChildLimits limits = {});

/// Throws Error, with the line, for Jinja source that cannot be parsed; names of llama.cpp's templates pass.
void check_template(const std::string& source);

/// What apply_jinja() renders the template with, as JSON text, without functions: for comparisons with other
/// engines. Throws std::exception where it fails.
std::string jinja_context(const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
                          const std::string& tools = "");

/// minja alone, in this process and without limits, for templates that are known. Throws std::exception where
/// it fails.
std::string apply_jinja(const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
                        const std::string& tools = "");

}  // namespace windowkv
