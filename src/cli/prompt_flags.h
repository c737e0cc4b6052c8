#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "windowkv/model.h"
#include "windowkv/vocab.h"

namespace windowkv::cli {

/// What is prefilled, and what the user wrote: the text before the chat template, or what the ids stand for.
struct Prompt {
  std::vector<Token> tokens;
  std::string text;
};

/// What the prompt flags name, read, but not yet in a model's tokens.
struct PromptSource {
  std::vector<Token> ids;  ///< of --tokens
  std::string text;        ///< empty: the ids are the prompt
  std::string system;
  std::string chat_template;  ///< empty: the model's
  bool no_chat = false;

  /// Throws Error where the model lacks what the prompt needs.
  Prompt prompt(const Model& model) const;
};

/// -p, -f, --tokens and how the text becomes a prompt.
struct PromptFlags {
  std::vector<std::string> texts;  ///< of -p
  std::string file;
  std::string tokens_file;
  std::string system;
  std::string system_file;
  std::string chat_template;
  std::string chat_template_file;
  bool no_chat = false;
  bool escape = false;
  bool no_escape = false;

  enum class Takes {
    kOnePrompt,
    kSeveralPrompts,  ///< -p may be given more than once
    kConversation,    ///< a document, and questions as they come
  };
  void add_to(CLI::App& app, Takes takes = Takes::kOnePrompt);
  bool given() const { return !texts.empty() || !file.empty() || !tokens_file.empty(); }
  /// Reads the files, and with `piped` what is piped into the command where no file is named: a prompt for
  /// each -p, all with the same document before it. Throws Error for no prompt, files that cannot be read,
  /// text that is not UTF-8, and an unknown chat template.
  std::vector<PromptSource> read(bool piped) const;
  /// For commands with one prompt that do without it too, which call this where given(): a pipe goes before
  /// -p. Throws Error for more than one.
  Prompt read(const Model& model) const;
  /// The text of -f, or with `piped` of a pipe; "" where there is none.
  std::string read_document(bool piped) const;
  /// --system or its file. Throws Error as read() does.
  std::string read_system() const;
  /// --chat-template or its file. Throws Error as read() does.
  std::string read_chat_template() const;
};

/// The text with \n, \r, \t, \', \", \\ and \xHH replaced by what they stand for, as llama.cpp does.
std::string unescape(const std::string& text);

}  // namespace windowkv::cli
