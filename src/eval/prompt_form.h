#pragma once

#include <string>
#include <string_view>

#include "windowkv/vocab.h"

namespace windowkv::eval {

/// What stands around a user's message.
struct PromptForm {
  std::string before, after;

  /// The form with that message in it, which is literal, and what the answer begins with.
  PromptText around(const Vocab& vocab, std::string_view message, std::string_view answer_prefix = "") const;
};

/// The model's chat template around one user message, up to where the assistant begins. Throws Error for a
/// model without a template, and for templates that do not repeat the message once, as it is.
PromptForm chat_form(const Vocab& vocab);

}  // namespace windowkv::eval
