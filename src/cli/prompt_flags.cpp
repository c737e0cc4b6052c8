#include "cli/prompt_flags.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/arguments.h"
#include "cli/help.h"
#include "cli/output.h"
#include "cli/standard_input.h"
#include "model/token_ids.h"
#include "support/file.h"
#include "support/utf8.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

/// The text of ids that may be no tokens of the model; "" without a vocabulary.
std::string text_of(const Model& model, const std::vector<Token>& ids) {
  const auto* vocab = model.find_vocab();
  std::string out;
  for (const auto id : ids)
    if (vocab != nullptr && id >= 0 && id < vocab->size()) out += vocab->piece(id);
  return out;
}

bool is_jinja(const std::string& text) {
  return text.find("{{") != std::string::npos || text.find("{%") != std::string::npos;
}

std::string template_of_file(const std::string& path) {
  auto text = read_text_file(path);
  if (!is_jinja(text)) throw Error(path + ": holds no Jinja chat template");
  return text;
}

/// What --chat-template names: Jinja text, one of llama.cpp's templates, a file.
std::string template_named(const std::string& value) {
  const auto names = Vocab::chat_template_names();
  if (value.empty() || is_jinja(value) || std::ranges::find(names, value) != names.end()) return value;
  std::error_code error;
  const bool path = value.find('/') != std::string::npos || value.ends_with(".jinja");
  if (path || std::filesystem::is_regular_file(value, error)) return template_of_file(value);
  const auto near = nearest(value, names);
  throw Error(
      fmt::format("\"{}\" is no file, and neither a Jinja chat template nor one of the built-in ones: {}{}",
                  value, fmt::join(names, ", "), near.empty() ? "" : "; did you mean " + near + "?"));
}

/// Without the line break that ends a text file, as llama.cpp takes it: it is the editor's, and small models
/// answer otherwise with it.
std::string without_last_break(std::string text) {
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

/// What is piped into the command; "" where nothing is.
std::string piped_document(bool optional) {
  auto input = piped_input(optional);
  return input ? without_last_break(checked_text(std::move(*input), "standard input")) : "";
}

}  // namespace

void check_utf8(const std::string& text, const char* flag) {
  if (utf8_first_error(text) != std::string::npos)
    throw Error(fmt::format("the text of {} is not UTF-8", flag));
}

std::string unescape(const std::string& text) {
  static constexpr std::string_view kLetters = "nrt'\"\\";
  static constexpr std::string_view kMeanings = "\n\r\t'\"\\";
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    out += text[i];
    if (text[i] != '\\' || i + 1 == text.size()) continue;
    if (const auto letter = kLetters.find(text[i + 1]); letter != std::string_view::npos) {
      out.back() = kMeanings[letter];
      ++i;
    } else if (text[i + 1] == 'x' && i + 3 < text.size()) {
      unsigned char byte = 0;
      const char* end = text.data() + i + 4;
      if (std::from_chars(text.data() + i + 2, end, byte, 16).ptr == end) {
        out.back() = static_cast<char>(byte);
        i += 3;
      }
    }
  }
  return out;
}

std::vector<CLI::Option*> PromptFlags::add_template_to(CLI::App& group) {
  auto* named = group
                    .add_option("--chat-template", chat_template,
                                "chat template to use instead of the model's: the name of one of llama.cpp's "
                                "(chatml, llama3, gemma, ...), a Jinja file, or Jinja text")
                    ->type_name("NAME|FILE");
  auto* from_file =
      group
          .add_option("--chat-template-file", chat_template_file, "read the chat template from a Jinja file")
          ->type_name("FILE")
          ->excludes(named);
  auto* kwargs =
      group
          .add_option("--chat-template-kwargs", template_kwargs,
                      "what the chat template may name besides, as in '{\"enable_thinking\": false}'")
          ->type_name("JSON");
  auto* thinks =
      group
          .add_option("--reasoning", reasoning,
                      "whether the model thinks before it answers, where its template can switch that")
          ->check(CLI::IsMember({"on", "off", "auto"}).description(""))
          ->type_name("on|off|auto");
  return {named, from_file, kwargs, thinks};
}

void PromptFlags::add_to(CLI::App& app, Takes takes) {
  auto* group = app.add_option_group("Prompt");
  if (takes != Takes::kConversation)
    group
        ->add_option(
            "-p,--prompt", texts,
            fmt::format("prompt text; follows the text of -f or, without -f, of a pipe, if there is any{}",
                        takes == Takes::kSeveralPrompts ? "; each further -p is a question of its own" : ""))
        ->type_name("TEXT")
        ->allow_extra_args(false);
  group
      ->add_option("-f,--file", file,
                   takes == Takes::kConversation
                       ? "a text to talk about: it goes before the first question"
                       : "read the prompt from a file, and no pipe; - is standard input")
      ->type_name("FILE");
  if (takes != Takes::kConversation)
    group
        ->add_option("--tokens", tokens_file,
                     "read the prompt, all of it, as a JSON list of token ids; - is standard input")
        ->type_name("FILE");
  auto* message =
      group->add_option("--system,--system-prompt", system, "system message for the chat template")
          ->type_name("TEXT");
  group->add_option("--system-prompt-file", system_file, "read the system message from a file")
      ->type_name("FILE")
      ->excludes(message);
  CLI::Option* bare = nullptr;
  if (takes != Takes::kConversation)
    bare = group->add_flag("--no-chat", no_chat, "do not apply a chat template to the prompt");
  for (auto* option : add_template_to(*group))
    if (bare != nullptr) bare->excludes(option);
  auto* replaced =
      group->add_flag("-e,--escape", escape, "replace \\n, \\t and other escapes in -p, --system and --stop");
  group->add_flag("--no-escape", no_escape, "take -p, --system and --stop literally (the default)")
      ->excludes(replaced);
  show_in_short_help(*group, {"--prompt", "--file", "--system", "--no-chat"});
}

std::string read_document(const std::string& file, bool text_follows) {
  if (!file.empty()) return without_last_break(read_text_file(file));
  auto document = piped_document(/*optional=*/text_follows);
  if (text_follows && !document.empty())
    note(fmt::format("the prompt is standard input ({} bytes) followed by -p", document.size()));
  return document;
}

std::string PromptFlags::read_system() const {
  auto text = system_file.empty() ? (escape ? unescape(system) : system)
                                  : without_last_break(read_text_file(system_file));
  check_utf8(text, "--system");
  return text;
}

std::string PromptFlags::read_chat_template() const {
  auto text =
      chat_template_file.empty() ? template_named(chat_template) : template_of_file(chat_template_file);
  try {
    if (!text.empty()) Vocab::check_chat_template(text);
  } catch (const Error& e) {
    const auto& from = chat_template_file.empty() ? chat_template : chat_template_file;
    throw Error(fmt::format("{}: {}", from == text ? "--chat-template" : from, e.what()));
  }
  return text;
}

std::string PromptFlags::read_variables() const {
  using Json = nlohmann::ordered_json;
  auto variables = Json::object();
  if (reasoning != "auto") variables["enable_thinking"] = reasoning == "on";
  if (!template_kwargs.empty()) {
    const auto given = Json::parse(template_kwargs, nullptr, /*allow_exceptions=*/false);
    if (!given.is_object())
      throw Error("--chat-template-kwargs takes a JSON object, such as '{\"enable_thinking\": false}'");
    variables.update(given);
  }
  return variables.empty() ? "" : variables.dump();
}

std::vector<PromptSource> PromptFlags::read() const {
  if (tokens_file.empty()) return sources(read_document(file, !texts.empty()));
  if (!texts.empty() || !file.empty()) throw Error("--tokens is the whole prompt; omit -p and -f");
  if (!system.empty() || !system_file.empty() || !chat_template.empty() || !chat_template_file.empty())
    throw Error("--tokens is the whole prompt; omit --system and --chat-template");
  return {{.ids = read_token_ids(tokens_file)}};
}

std::optional<PromptSource> PromptFlags::find() const {
  if (texts.size() > 1) throw Error("this command takes one prompt; give -p once");
  if (given()) return read().front();
  const auto document = piped_document(/*optional=*/true);
  if (document.empty()) return std::nullopt;
  note(fmt::format("the prompt is standard input ({} bytes)", document.size()));
  return sources(document).front();
}

std::vector<PromptSource> PromptFlags::sources(const std::string& document) const {
  PromptSource source{.no_chat = no_chat};
  source.system = read_system();
  source.chat_template = read_chat_template();
  source.variables = read_variables();
  auto typed = texts;
  if (typed.empty()) typed.emplace_back();
  std::vector<PromptSource> sources;
  for (auto& text : typed) {
    if (!escape && !no_escape && text.find("\\n") != std::string::npos)
      note("\\n in -p is taken literally; with -e it is a line break");
    if (escape) text = unescape(text);
    check_utf8(text, "-p");
    source.text = document;
    if (!document.empty() && !text.empty()) source.text += "\n\n";
    source.text += text;
    if (source.text.empty())
      throw Error(given() ? "the prompt is empty"
                          : "no prompt; give one with -p TEXT, -f FILE or --tokens FILE");
    if (source.system.empty() && source.text.find_first_not_of(" \t\r\n") == std::string::npos)
      throw Error("the prompt is empty: it has nothing but blanks");
    sources.push_back(source);
  }
  return sources;
}

Prompt PromptSource::prompt(const Model& model) const {
  if (text.empty()) return {ids, text_of(model, ids)};
  const auto& vocab = model.vocab();
  if (!no_chat && (vocab.has_chat_template() || !chat_template.empty())) {
    std::vector<ChatMessage> messages;
    if (!system.empty()) messages.push_back({"system", system});
    messages.push_back({"user", text});
    return {vocab.tokenize(vocab.apply_chat_template(messages, chat_template, "", variables)), text};
  }
  if (!system.empty())
    throw Error("--system needs a chat template, but the model has none or --no-chat is given");
  return {vocab.tokenize(text), text};
}

}  // namespace windowkv::cli
