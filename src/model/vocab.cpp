#include "windowkv/vocab.h"

#include <llama.h>

#include <algorithm>
#include <climits>
#include <stdexcept>

#include "backend/backend.h"
#include "model/chat_template.h"
#include "model/gguf_file.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

/// Throws Error where a token is missing that libllama puts around texts: it would end the process at the
/// first.
void check_added_tokens(const llama_vocab* vocab, const std::string& path) {
  const bool wordpiece = llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_WPM;
  auto lacks = [](bool added, Token token) { return added && token == LLAMA_TOKEN_NULL; };
  if (lacks(wordpiece || llama_vocab_get_add_bos(vocab), llama_vocab_bos(vocab)) ||
      lacks(llama_vocab_get_add_eos(vocab), llama_vocab_eos(vocab)) ||
      lacks(wordpiece || llama_vocab_get_add_sep(vocab), llama_vocab_sep(vocab)))
    throw Error(
        path +
        ": damaged vocabulary: a token that stands before or behind texts is missing; fetch the file again");
}

}  // namespace

void Vocab::ModelFree::operator()(llama_model* model) const {
  llama_model_free(model);
}

Vocab::Vocab(const GgufFile& file) {
  const auto& path = file.path();
  capture_ggml_logs();
  take_ggml_error();
  auto params = llama_model_default_params();
  params.vocab_only = true;
  model_.reset(llama_model_load_from_file(path.c_str(), params));
  if (!model_) {
    auto detail = take_ggml_error();
    throw Error(path + ": no usable vocabulary" + (detail.empty() ? "" : " (" + detail + ")"));
  }
  vocab_ = llama_model_get_vocab(model_.get());
  if (llama_vocab_type(vocab_) == LLAMA_VOCAB_TYPE_NONE)
    throw Error(path + ": the file has no vocabulary; give the prompt as ids with --tokens");
  check_added_tokens(vocab_, path);
  if (const char* text = llama_model_chat_template(model_.get(), nullptr)) template_ = text;
}

Vocab::~Vocab() = default;

int Vocab::size() const {
  return llama_vocab_n_tokens(vocab_);
}

std::vector<Token> Vocab::tokenize(std::string_view text) const try {
  if (text.size() > INT_MAX / 2) throw Error("the prompt is over 1 GiB of text");
  // Never more tokens than bytes, plus BOS and EOS.
  std::vector<Token> tokens(text.size() + 2);
  int32_t count =
      llama_tokenize(vocab_, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                     static_cast<int32_t>(tokens.size()), /*add_special=*/true, /*parse_special=*/true);
  if (count < 0) {
    if (count == INT32_MIN) throw Error("the prompt is too long to tokenize");
    tokens.resize(static_cast<size_t>(-count));
    count = llama_tokenize(vocab_, text.data(), static_cast<int32_t>(text.size()), tokens.data(), -count,
                           true, true);
  }
  tokens.resize(static_cast<size_t>(count));
  if (std::ranges::any_of(tokens, [&](Token token) { return token < 0 || token >= size(); }))
    throw std::out_of_range("token");
  return tokens;
} catch (const std::out_of_range&) {
  throw Error(
      "the model's vocabulary has no tokens for some bytes of the text; it is damaged, fetch the file again");
}

std::string Vocab::piece(Token token, bool special) const {
  char buffer[256];
  int32_t size = llama_token_to_piece(vocab_, token, buffer, sizeof buffer, 0, special);
  if (size >= 0) return {buffer, static_cast<size_t>(size)};
  std::string big(static_cast<size_t>(-size), '\0');
  llama_token_to_piece(vocab_, token, big.data(), -size, 0, special);
  return big;
}

std::string Vocab::text(const std::vector<Token>& tokens, bool special) const {
  std::string out;
  for (auto token : tokens) out += piece(token, special);
  return out;
}

bool Vocab::is_end(Token token) const {
  return llama_vocab_is_eog(vocab_, token);
}

std::vector<std::string> Vocab::chat_template_names() {
  std::vector<const char*> names(static_cast<size_t>(llama_chat_builtin_templates(nullptr, 0)));
  llama_chat_builtin_templates(names.data(), names.size());
  return {names.begin(), names.end()};
}

namespace {

std::string apply_builtin(const std::string& name, const std::vector<ChatMessage>& messages) {
  std::vector<llama_chat_message> chat;
  chat.reserve(messages.size());
  size_t size = 1024;
  for (const auto& m : messages) {
    chat.push_back({m.role.c_str(), m.content.c_str()});
    size += 2 * (m.role.size() + m.content.size());
  }
  std::string text;
  for (;;) {
    text.resize(size);
    const auto needed = llama_chat_apply_template(name.c_str(), chat.data(), chat.size(), /*add_ass=*/true,
                                                  text.data(), static_cast<int32_t>(size));
    if (needed < 0) throw Error("the built-in chat template " + name + " fails on this prompt");
    if (static_cast<size_t>(needed) > size) {
      size = static_cast<size_t>(needed);
      continue;
    }
    text.resize(static_cast<size_t>(needed));
    return text;
  }
}

}  // namespace

std::string Vocab::apply_chat_template(const std::vector<ChatMessage>& messages,
                                       const std::string& chat_template) const {
  const auto& source = chat_template.empty() ? template_ : chat_template;
  if (source.empty()) throw Error("the model has no chat template; use --no-chat to give the text as it is");
  const auto names = chat_template_names();
  auto special_text = [&](Token token) { return token < 0 ? std::string() : piece(token, true); };
  const auto bos = special_text(llama_vocab_bos(vocab_));
  auto text = std::ranges::find(names, source) != names.end()
                  ? apply_builtin(source, messages)
                  : render_chat_template(source, bos, special_text(llama_vocab_eos(vocab_)), messages);
  // tokenize() adds BOS where the model wants it; a template that writes it too would double it.
  if (!bos.empty() && llama_vocab_get_add_bos(vocab_) && text.starts_with(bos)) text.erase(0, bos.size());
  return text;
}

}  // namespace windowkv
