#pragma once

#include <CLI/CLI.hpp>
#include <optional>
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
  std::string variables;      ///< of the template, as Vocab::apply_chat_template takes them
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
  std::string template_kwargs;
  std::string reasoning = "auto";
  bool no_chat = false;
  bool escape = false;
  bool no_escape = false;

  enum class Takes {
    kOnePrompt,
    kSeveralPrompts,  ///< -p may be given more than once
    kConversation,    ///< a document, and questions as they come
  };
  void add_to(CLI::App& app, Takes takes = Takes::kOnePrompt);
  /// --chat-template and what belongs to it alone. Returns the options.
  std::vector<CLI::Option*> add_template_to(CLI::App& group);
  bool given() const { return !texts.empty() || !file.empty() || !tokens_file.empty(); }
  /// Reads the files, or what is piped into the command where no file is named: a prompt for each -p, all
  /// with the same document before it. Throws Error for no prompt, files that cannot be read, text that is
  /// not UTF-8, an unknown chat template, and flags that --tokens has no use for.
  std::vector<PromptSource> read() const;
  /// For commands with one prompt that do without it too: nullopt where none is named and nothing is piped
  /// in. Throws Error as read(), and for more than one.
  std::optional<PromptSource> find() const;
  /// --system or its file. Throws Error as read() does.
  std::string read_system() const;
  /// --chat-template or its file. Throws Error as read() does.
  std::string read_chat_template() const;
  /// --chat-template-kwargs and --reasoning, as Vocab::apply_chat_template takes them. Throws Error for what
  /// is no JSON object.
  std::string read_variables() const;

 private:
  std::vector<PromptSource> sources(const std::string& document) const;
};

/// What a prompt begins with: the text of a file, or, where none is named, what is piped into the command;
/// "" where there is neither. `text_follows`: there is a -p too, which does without the pipe; it is told of
/// one that the text comes after. Throws Error for what cannot be read or is not UTF-8.
std::string read_document(const std::string& file, bool text_follows);

/// Throws Error for the text of a flag that is not UTF-8.
void check_utf8(const std::string& text, const char* flag);

/// The text with \n, \r, \t, \', \", \\ and \xHH replaced by what they stand for, as llama.cpp does.
std::string unescape(const std::string& text);

}  // namespace windowkv::cli
