#pragma once

#include <string>

#include "windowkv/vocab.h"

namespace windowkv::eval {

/// What stands around a user's message.
struct PromptForm {
  std::string before, after;
};

/// The model's chat template around one user message, up to where the assistant begins. Throws Error for a
/// model without a template, and for templates that do not repeat the message once, as it is.
PromptForm chat_form(const Vocab& vocab);

}  // namespace windowkv::eval
