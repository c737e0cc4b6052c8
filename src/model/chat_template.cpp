#include "model/chat_template.h"

#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <array>
#include <minja/minja.hpp>
#include <optional>

#include "jinja/functions.h"
#include "jinja/parser.h"
#include "model/message_json.h"
#include "model/tool_text.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

using nlohmann::ordered_json;

/// Behind the first line minja shows the places, of the outer expressions too.
std::string first_line_of(const std::exception& e) {
  std::string line = e.what();
  line.resize(std::min(line.find('\n'), line.size()));
  if (line.ends_with(':')) line.pop_back();
  if (const auto row = line.rfind(" at row "); row != std::string::npos) {
    line.replace(row + 4, 3, "line");
    line.resize(std::min(line.find(", column", row), line.size()));
  }
  return line;
}

/// By llama.cpp's own code for the forms it knows, by name or by marks in the source; nullopt for others.
std::optional<std::string> apply_known(const std::string& source, const std::vector<ChatMessage>& messages) {
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
    const auto needed = llama_chat_apply_template(source.c_str(), chat.data(), chat.size(), /*add_ass=*/true,
                                                  text.data(), static_cast<int32_t>(size));
    if (needed < 0) return std::nullopt;
    const bool fits = static_cast<size_t>(needed) <= size;
    size = static_cast<size_t>(needed);
    if (!fits) continue;
    text.resize(size);
    return text;
  }
}

/// The system message put before the first user message, as minja's chat_template does it.
std::vector<ChatMessage> without_system(const std::vector<ChatMessage>& messages) {
  std::vector<ChatMessage> out;
  std::string system;
  for (const auto& m : messages) {
    if (m.role == "system") {
      system += (system.empty() ? "" : "\n") + m.content;
      continue;
    }
    out.push_back(m);
    if (m.role == "user" && !system.empty()) {
      out.back().content = system + (m.content.empty() ? "" : "\n" + m.content);
      system.clear();
    }
  }
  if (!system.empty()) out.push_back({"user", system});
  return out;
}

/// The members of messages that hold reasoning, of those that a template names.
std::vector<std::string> reasoning_members(std::string_view source) {
  constexpr std::array<std::string_view, 3> kNames = {"reasoning_content", "reasoning", "thinking"};
  const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  std::vector<std::string> found;
  for (const auto name : kNames)
    for (size_t at = 0; (at = source.find(name, at)) != std::string_view::npos; at += name.size()) {
      const auto end = at + name.size();
      const bool member =
          at > 0 && (source[at - 1] == '.' || source[at - 1] == '\'' || source[at - 1] == '"');
      if (!member || (end < source.size() && is_word(source[end]))) continue;
      found.emplace_back(name);
      break;
    }
  return found;
}

std::vector<ChatMessage> conversation_with_call(const std::string& content = "",
                                                const std::string& reasoning = "") {
  constexpr const char* kId = "call00001";  // of nine letters: Mistral's templates insist
  return {{"user", "Hello"},
          {"assistant", content, {{kId, "needle_tool", R"({"needle_argument": "x"})"}}, "", reasoning},
          {"tool", "<Needle>", {}, kId}};
}

/// minja's chat_template would do, but tries tool calls on every template and prints where one does not take
/// them.
class Jinja {
 public:
  explicit Jinja(const ChatTemplate& chat_template)
      : template_(chat_template), root_(parse_jinja(chat_template.source)) {}

  ordered_json context(const std::vector<ChatMessage>& messages, const std::string& tools,
                       const MessageStyle& style) const {
    // As llama.cpp has it: templates that were made for it take a name that is missing for no.
    ordered_json names{{"enable_thinking", true}};
    if (!template_.variables.empty()) names.update(ordered_json::parse(template_.variables));
    names.update({{"messages", messages_json(messages, style)},
                  {"add_generation_prompt", true},
                  {"bos_token", template_.bos},
                  {"eos_token", template_.eos}});
    if (!tools.empty()) names["tools"] = ordered_json::parse(tools);
    return names;
  }

  std::string render(const std::vector<ChatMessage>& messages, const std::string& tools,
                     const MessageStyle& style) const {
    const auto names = minja::Context::make(context(messages, tools, style));
    jinja::add_functions(*names);
    return root_->render(names);
  }

  /// Whether the template takes such a conversation, and all of the marks come through.
  bool shows(const std::vector<std::string>& marks, const std::vector<ChatMessage>& messages,
             const std::string& tools, const MessageStyle& style) const {
    try {
      return shows_all(marks, render(messages, tools, style));
    } catch (const std::exception&) {
      return false;
    }
  }

  /// Whether what such a message says comes through.
  bool takes(const std::string& role, const MessageStyle& style) const {
    constexpr const char* kMark = "<Needle>";
    std::vector<ChatMessage> messages = {{role, kMark}};
    if (role != "user") messages.push_back({"user", "Hello"});
    return shows({kMark}, messages, "", style);
  }

  /// Whether contents are text or lists of parts.
  MessageStyle content_style() const {
    return {.typed = !takes("user", {}) && takes("user", {.typed = true})};
  }

  bool takes_tools(const MessageStyle& style) const {
    constexpr const char* kTool =
        R"([{"type": "function", "function": {"name": "needle_tool", "description": "A tool.", "parameters":
           {"type": "object", "properties": {"x": {"type": "string", "description": "x."}}, "required": ["x"]}}}])";
    return shows({"needle_tool"}, {{"user", "Hello"}}, kTool, style);
  }

  /// The style in which calls and their results come through; nullopt where none does.
  std::optional<MessageStyle> call_style(MessageStyle style) const {
    const auto messages = conversation_with_call();
    // Arguments may be written in many ways, and best as JSON that is not quoted. A content that is not there
    // is none or empty; the wrong one of them shows as a word, or as a turn without text.
    for (const auto& argument : {R"("needle_argument":)", "needle_argument"})
      for (const bool text_arguments : {false, true}) {
        std::optional<MessageStyle> best;
        size_t shortest = 0;
        for (const bool text_content : {true, false}) {
          style.text_arguments = text_arguments;
          style.text_content = text_content;
          const auto text = rendered(messages, style);
          if (!shows_all({"needle_tool", argument, "<Needle>"}, text) || (best && text.size() >= shortest))
            continue;
          best = style;
          shortest = text.size();
        }
        if (best) return best;
      }
    return std::nullopt;
  }

  /// The style in which the template gets the assistant's reasoning. Whether it shows any is its own affair:
  /// many do of what follows the last question alone.
  MessageStyle reasoning_style(MessageStyle style) const {
    style.reasoning_members = reasoning_members(template_.source);
    if (!style.reasoning_members.empty() && shows_reasoning(style)) return with_calls_reasoned(style);
    auto parts = style;
    parts.reasoning_members.clear();
    parts.reasoning_part = true;
    if (template_.source.find("'thinking'") != std::string::npos && shows_reasoning(parts)) return parts;
    style.reasoning_text =
        style.reasoning_members.empty() && template_.source.find("</think>") != std::string::npos;
    return style;
  }

 private:
  static bool shows_all(const std::vector<std::string>& marks, const std::string& text) {
    return std::ranges::all_of(marks,
                               [&](const std::string& mark) { return text.find(mark) != std::string::npos; });
  }

  /// "" where the template does not take it.
  std::string rendered(const std::vector<ChatMessage>& messages, const MessageStyle& style) const {
    try {
      return render(messages, "", style);
    } catch (const std::exception&) {
      return "";
    }
  }

  static constexpr const char* kThought = "<Thought>";

  /// In an answer, or before a call.
  bool shows_reasoning(const MessageStyle& style) const {
    const ChatMessage question{"user", "Hello"};
    ChatMessage answer{"assistant", "Hi"};
    answer.reasoning = kThought;
    return shows({kThought}, {question, answer}, "", style) ||
           shows({kThought}, conversation_with_call("", kThought), "", style);
  }

  MessageStyle with_calls_reasoned(MessageStyle style) const {
    const auto messages = conversation_with_call("Hi", kThought);
    if (shows({}, messages, "", style)) return style;
    auto alone = style;
    alone.reasoning_alone = true;
    return shows({}, messages, "", alone) ? alone : style;
  }

  const ChatTemplate& template_;
  std::shared_ptr<minja::TemplateNode> root_;
};

}  // namespace

std::vector<std::string> known_template_names() {
  std::vector<const char*> names(static_cast<size_t>(llama_chat_builtin_templates(nullptr, 0)));
  llama_chat_builtin_templates(names.data(), names.size());
  return {names.begin(), names.end()};
}

namespace {

/// What a template is rendered with.
struct Input {
  std::vector<ChatMessage> messages;
  std::string tools;
  MessageStyle style;
};

Input input_for(const Jinja& jinja, const std::vector<ChatMessage>& messages, const std::string& tools) {
  Input input{messages, tools, jinja.content_style()};
  bool knows_tools = tools.empty() || jinja.takes_tools(input.style);
  if (knows_tools && has_calls(messages)) {
    const auto found = jinja.call_style(input.style);
    knows_tools = found.has_value();
    input.style = found.value_or(input.style);
  }
  if (!knows_tools) {
    input.messages = without_tools(messages, tools);
    input.tools.clear();
  }
  if (std::ranges::any_of(messages, [](const ChatMessage& m) { return !m.reasoning.empty(); }))
    input.style = jinja.reasoning_style(input.style);
  const bool system =
      std::ranges::any_of(input.messages, [](const ChatMessage& m) { return m.role == "system"; });
  if (system && !jinja.takes("system", input.style)) input.messages = without_system(input.messages);
  return input;
}

}  // namespace

std::string apply_jinja(const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
                        const std::string& tools) {
  const Jinja jinja(chat_template);
  const auto input = input_for(jinja, messages, tools);
  return jinja.render(input.messages, input.tools, input.style);
}

std::string jinja_context(const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
                          const std::string& tools) {
  const Jinja jinja(chat_template);
  const auto input = input_for(jinja, messages, tools);
  return jinja.context(input.messages, input.tools, input.style).dump();
}

void check_template(const std::string& source) {
  const auto names = known_template_names();
  if (std::ranges::find(names, source) != names.end()) return;
  run_in_child("the chat template", [&] {
    parse_jinja(source);
    return std::string();
  });
}

namespace {

bool parses(const std::string& source) {
  try {
    check_template(source);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

std::string apply(const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
                  const std::string& tools, const std::function<void(const std::string& line)>& warning,
                  ChildLimits limits) {
  const auto& source = chat_template.source;
  const auto names = known_template_names();
  const auto known = [&] {
    return apply_known(source,
                       tools.empty() && !has_calls(messages) ? messages : without_tools(messages, tools));
  };
  if (std::ranges::find(names, source) != names.end()) {
    if (auto text = known()) return *text;
    throw Error("llama.cpp's chat template " + source + " does not take these messages");
  }
  constexpr size_t kCopies = 32;  // of a message that minja may make, and more than it does
  limits.memory += kCopies * tools.size();
  for (const auto& m : messages) {
    limits.memory += kCopies * (m.role.size() + m.content.size());
    for (const auto& call : m.tool_calls)
      limits.memory += kCopies * (call.name.size() + call.arguments.size());
  }
  try {
    return run_in_child(
        "the chat template", [&] { return apply_jinja(chat_template, messages, tools); }, limits);
  } catch (const Error& e) {
    const auto why = first_line_of(e);
    // What a template refuses, as two questions in a row, is refused: another form is for one that is not
    // Jinja.
    auto text = parses(source) ? std::nullopt : known();
    if (!text) throw Error(why + "; use another one, or none");
    if (warning) warning(why + "; llama.cpp's built-in form of it is used");
    return *text;
  }
}

}  // namespace windowkv
