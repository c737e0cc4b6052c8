#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct llama_model;
struct llama_vocab;

namespace windowkv {

class GgufFile;
class SpecialNames;

using Token = int32_t;

/// A call of a function that a model asked for.
struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments;  ///< JSON text, an object; of a client it may be anything
};

struct ChatMessage {
  std::string role;
  std::string content;
  std::vector<ToolCall> tool_calls = {};  ///< of the assistant
  std::string tool_call_id = {};          ///< of role "tool": which call this is the result of
  std::string reasoning = {};             ///< of the assistant: what it thought before the content
};

/// Text in which the name of a special token, such as <|im_start|>, stands for that token, except where it
/// begins at one of the `literal` byte offsets (ascending): there it is part of what somebody wrote.
struct PromptText {
  std::string text;
  std::vector<size_t> literal;
};

/// The vocabulary and chat template of a GGUF, through libllama and minja. Made by Model::load.
class Vocab {
 public:
  /// Throws Error where the file has no vocabulary or libllama rejects it. Takes a checked file, because
  /// libllama aborts the process for some damaged ones. `warning` is told when a chat template needs a
  /// fallback.
  explicit Vocab(const GgufFile& file, std::function<void(const std::string& line)> warning = nullptr);
  ~Vocab();
  Vocab(const Vocab&) = delete;
  Vocab& operator=(const Vocab&) = delete;

  int size() const;
  /// Names of special tokens in the text stand for those tokens. BOS is added where the model's settings say
  /// so; EOS never is, because the text is to be continued. Throws Error for text of over 1 GiB, and text
  /// that the vocabulary has no tokens for.
  std::vector<Token> tokenize(std::string_view text) const;
  std::vector<Token> tokenize(const PromptText& prompt) const;
  /// Byte offsets at which the name of a special token begins; as `literal`, they make the whole text plain.
  std::vector<size_t> special_names(std::string_view text) const;
  /// The bytes of one token; may be part of a UTF-8 sequence. Control tokens give "" unless `special`.
  std::string piece(Token token, bool special = false) const;
  std::string text(const std::vector<Token>& tokens, bool special = false) const;
  bool is_end(Token token) const;  ///< end of generation: EOS, EOT and the like
  /// The control tokens that such text is written with, which piece() leaves out unless they are asked for.
  std::vector<Token> control_tokens(std::string_view text) const;

  bool has_chat_template() const { return !template_.empty(); }
  /// Jinja text of the GGUF's; "" without one.
  const std::string& chat_template() const { return template_; }
  /// The messages in the model's chat format, ending where the assistant's reply begins. Special tokens
  /// spelled out in a message are plain text there, so a message cannot end its own turn or start another.
  /// The template's own BOS is left to tokenize(). `chat_template`: Jinja text or one of
  /// chat_template_names(), used instead of the GGUF's. `tools`: functions that the model may call, a JSON
  /// array as OpenAI's chat completions have it; a template that knows nothing of tools gets them in the
  /// system message. `variables`: what else the template may name, a JSON object, such as
  /// {"enable_thinking": false}. Throws Error where there is no template or it fails.
  PromptText apply_chat_template(const std::vector<ChatMessage>& messages,
                                 const std::string& chat_template = "", const std::string& tools = "",
                                 const std::string& variables = "") const;
  /// Throws Error, with the line, for a chat template that is not Jinja; names of built-in ones pass.
  static void check_chat_template(const std::string& chat_template);
  /// llama.cpp's built-in chat templates.
  static std::vector<std::string> chat_template_names();

  const llama_vocab* handle() const { return vocab_; }

 private:
  struct ModelFree {
    void operator()(llama_model* model) const;
  };
  void append(std::vector<Token>& tokens, std::string_view text, bool parse_special) const;

  std::unique_ptr<llama_model, ModelFree> model_;
  const llama_vocab* vocab_ = nullptr;
  std::unique_ptr<SpecialNames> names_;
  std::string template_;
  std::function<void(const std::string& line)> warning_;
};

}  // namespace windowkv
