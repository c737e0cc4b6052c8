#include "model/chat_template.h"

#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <iomanip>
#include <minja/minja.hpp>
#include <optional>
#include <sstream>

#include "model/tool_text.h"
#include "support/bounded_json.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

using nlohmann::ordered_json;

/// Behind the first line minja shows the places, of the outer expressions too.
std::string first_line_of(const std::exception& e) {
  std::string line = e.what();
  line.resize(std::min(line.find('\n'), line.size()));
  if (line.ends_with(':')) line.pop_back();
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

minja::Value strftime_now() {
  return minja::Value::callable([](const std::shared_ptr<minja::Context>&, minja::ArgumentsValue& args) {
    args.expectArgs("strftime_now", {1, 1}, {0, 0});
    const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
    std::tm local{};
    localtime_r(&now, &local);
    std::ostringstream text;
    text << std::put_time(&local, args.args[0].get<std::string>().c_str());
    return minja::Value(text.str());
  });
}

/// What templates differ in.
struct Style {
  bool typed = false;           ///< contents are lists of parts
  bool text_arguments = false;  ///< arguments of calls are JSON text; else objects
  bool text_content = false;    ///< a message of calls alone has the content ""; else null
};

ordered_json arguments_json(const ToolCall& call, const Style& style) {
  if (style.text_arguments) return call.arguments;
  try {
    return parse_bounded_json(call.arguments);
  } catch (const Error&) {
    return call.arguments;
  }
}

ordered_json message_json(const std::vector<ChatMessage>& messages, const ChatMessage& message,
                          const Style& style) {
  ordered_json out{{"role", message.role}};
  if (message.content.empty() && !message.tool_calls.empty())
    out["content"] = style.text_content ? ordered_json("") : ordered_json();
  else if (style.typed)
    out["content"] = ordered_json::array({{{"type", "text"}, {"text", message.content}}});
  else
    out["content"] = message.content;
  for (const auto& call : message.tool_calls)
    out["tool_calls"].push_back(
        {{"id", call.id},
         {"type", "function"},
         {"function", {{"name", call.name}, {"arguments", arguments_json(call, style)}}}});
  if (message.role == "tool") {
    out["tool_call_id"] = message.tool_call_id;
    out["name"] = called_name(messages, message);
  }
  return out;
}

/// minja's chat_template would do, but tries tool calls on every template and prints where one does not take
/// them.
class Jinja {
 public:
  explicit Jinja(const ChatTemplate& chat_template)
      : template_(chat_template),
        root_(minja::Parser::parse(
            chat_template.source,
            {.trim_blocks = true, .lstrip_blocks = true, .keep_trailing_newline = false})) {}

  std::string render(const std::vector<ChatMessage>& messages, const std::string& tools,
                     const Style& style) const {
    auto list = ordered_json::array();
    for (const auto& m : messages) list.push_back(message_json(messages, m, style));
    auto context =
        minja::Context::make(ordered_json{{"messages", std::move(list)}, {"add_generation_prompt", true}});
    context->set("bos_token", template_.bos);
    context->set("eos_token", template_.eos);
    context->set("strftime_now", strftime_now());
    if (!tools.empty()) context->set("tools", minja::Value(ordered_json::parse(tools)));
    return root_->render(context);
  }

  /// Whether all of the marks come through.
  bool shows(const std::vector<std::string>& marks, const std::vector<ChatMessage>& messages,
             const std::string& tools, const Style& style) const {
    try {
      const auto text = render(messages, tools, style);
      return std::ranges::all_of(
          marks, [&](const std::string& mark) { return text.find(mark) != std::string::npos; });
    } catch (const std::exception&) {
      return false;
    }
  }

  /// Whether what such a message says comes through.
  bool takes(const std::string& role, const Style& style) const {
    constexpr const char* kMark = "<Needle>";
    std::vector<ChatMessage> messages = {{role, kMark}};
    if (role != "user") messages.push_back({"user", "Hello"});
    return shows({kMark}, messages, "", style);
  }

  bool takes_tools(const Style& style) const {
    constexpr const char* kTool =
        R"([{"type": "function", "function": {"name": "needle_tool", "description": "A tool.", "parameters":
           {"type": "object", "properties": {"x": {"type": "string", "description": "x."}}, "required": ["x"]}}}])";
    return shows({"needle_tool"}, {{"user", "Hello"}}, kTool, style);
  }

  /// The style in which calls and their results come through; nullopt where none does.
  std::optional<Style> call_style(Style style) const {
    constexpr const char* kId = "call00001";  // of nine letters: Mistral's templates insist
    const std::vector<ChatMessage> messages = {
        {"user", "Hello"},
        {"assistant", "", {{kId, "needle_tool", R"({"needle_argument": "x"})"}}},
        {"tool", "<Needle>", {}, kId}};
    // Arguments may be written in many ways, and best as JSON that is not quoted.
    for (const auto& argument : {R"("needle_argument":)", "needle_argument"})
      for (const bool text_arguments : {false, true})
        for (const bool text_content : {false, true}) {
          style.text_arguments = text_arguments;
          style.text_content = text_content;
          if (shows({"needle_tool", argument, "<Needle>"}, messages, "", style)) return style;
        }
    return std::nullopt;
  }

 private:
  const ChatTemplate& template_;
  std::shared_ptr<minja::TemplateNode> root_;
};

}  // namespace

std::vector<std::string> known_template_names() {
  std::vector<const char*> names(static_cast<size_t>(llama_chat_builtin_templates(nullptr, 0)));
  llama_chat_builtin_templates(names.data(), names.size());
  return {names.begin(), names.end()};
}

std::string apply_jinja(const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
                        const std::string& tools) {
  const Jinja jinja(chat_template);
  Style style;
  style.typed = !jinja.takes("user", {}) && jinja.takes("user", {.typed = true});
  bool knows_tools = tools.empty() || jinja.takes_tools(style);
  if (knows_tools && has_calls(messages)) {
    const auto found = jinja.call_style(style);
    knows_tools = found.has_value();
    style = found.value_or(style);
  }
  auto all = knows_tools ? messages : without_tools(messages, tools);
  const bool system = std::ranges::any_of(all, [](const ChatMessage& m) { return m.role == "system"; });
  if (system && !jinja.takes("system", style)) all = without_system(all);
  return jinja.render(all, knows_tools ? tools : "", style);
}

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
    auto text = known();
    if (!text) throw Error(why + "; use another one, or none");
    if (warning) warning(why + "; llama.cpp's built-in form of it is used");
    return *text;
  }
}

}  // namespace windowkv
