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
  std::string text;
  std::string file;
  std::string tokens_file;
  std::string system;
  std::string system_file;
  std::string chat_template;
  std::string chat_template_file;
  bool no_chat = false;
  bool escape = false;
  bool no_escape = false;

  void add_to(CLI::App& app);
  bool given() const { return !text.empty() || !file.empty() || !tokens_file.empty(); }
  /// Reads the files, and with `piped` what is piped into the command where no file is named. Throws Error
  /// for no prompt, files that cannot be read, text that is not UTF-8, and an unknown chat template.
  PromptSource read(bool piped = false) const;
  /// For commands that do without a prompt too, which call this where given(): a pipe goes before -p.
  Prompt read(const Model& model) const { return read(/*piped=*/!text.empty()).prompt(model); }

 private:
  std::string read_text(bool piped) const;
};

/// The text with \n, \r, \t, \', \", \\ and \xHH replaced by what they stand for, as llama.cpp does.
std::string unescape(const std::string& text);

}  // namespace windowkv::cli
