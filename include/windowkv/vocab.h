#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct llama_model;
struct llama_vocab;

namespace windowkv {

class GgufFile;

using Token = int32_t;

struct ChatMessage {
  std::string role;
  std::string content;
};

/// The vocabulary and chat template of a GGUF, through libllama and minja. Made by Model::load.
class Vocab {
 public:
  /// Throws Error where the file has no vocabulary or libllama rejects it. Takes a checked file, because
  /// libllama aborts the process for some damaged ones.
  explicit Vocab(const GgufFile& file);
  ~Vocab();
  Vocab(const Vocab&) = delete;
  Vocab& operator=(const Vocab&) = delete;

  int size() const;
  /// Parses special tokens spelled out in the text; adds BOS/EOS according to the model's settings.
  std::vector<Token> tokenize(std::string_view text) const;
  /// The bytes of one token; may be part of a UTF-8 sequence. Control tokens give "" unless `special`.
  std::string piece(Token token, bool special = false) const;
  std::string text(const std::vector<Token>& tokens, bool special = false) const;
  bool is_end(Token token) const;  ///< end of generation: EOS, EOT and the like

  bool has_chat_template() const { return !template_.empty(); }
  /// The messages in the model's chat format, ending where the assistant's reply begins. The template's own
  /// BOS is left to tokenize(). `chat_template`: Jinja text or one of chat_template_names(), used instead of
  /// the GGUF's. Throws Error where there is no template or it fails.
  std::string apply_chat_template(const std::vector<ChatMessage>& messages,
                                  const std::string& chat_template = "") const;
  /// llama.cpp's built-in chat templates.
  static std::vector<std::string> chat_template_names();

  const llama_vocab* handle() const { return vocab_; }

 private:
  struct ModelFree {
    void operator()(llama_model* model) const;
  };
  std::unique_ptr<llama_model, ModelFree> model_;
  const llama_vocab* vocab_ = nullptr;
  std::string template_;
};

}  // namespace windowkv
