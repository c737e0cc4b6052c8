#include "eval/prompt_form.h"

#include "windowkv/error.h"

namespace windowkv::eval {

PromptText PromptForm::around(const Vocab& vocab, std::string_view message,
                              std::string_view answer_prefix) const {
  PromptText prompt{before, vocab.special_names(message)};
  for (auto& at : prompt.literal) at += before.size();
  prompt.text.append(message).append(after).append(answer_prefix);
  return prompt;
}

PromptForm chat_form(const Vocab& vocab) {
  // The template is applied to a mark that stands for the text.
  constexpr std::string_view kMark = "WINDOWKV-TEXT";
  const auto form = vocab.apply_chat_template({{"user", std::string(kMark)}}).text;
  const auto at = form.find(kMark);
  if (at == std::string::npos || form.find(kMark, at + 1) != std::string::npos)
    throw Error("the model's chat template changes the text of messages; use --no-chat");
  return {form.substr(0, at), form.substr(at + kMark.size())};
}

}  // namespace windowkv::eval
