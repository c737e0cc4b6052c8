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

/// minja's chat_template would do, but tries tool calls on every template and prints where one does not take
/// them.
class Jinja {
 public:
  explicit Jinja(const ChatTemplate& chat_template)
      : template_(chat_template),
        root_(minja::Parser::parse(
            chat_template.source,
            {.trim_blocks = true, .lstrip_blocks = true, .keep_trailing_newline = false})) {}

  /// `typed`: contents as lists of parts, which some templates want.
  std::string render(const std::vector<ChatMessage>& messages, bool typed) const {
    auto list = ordered_json::array();
    for (const auto& m : messages) {
      const ordered_json content =
          typed ? ordered_json::array({{{"type", "text"}, {"text", m.content}}}) : ordered_json(m.content);
      list.push_back({{"role", m.role}, {"content", content}});
    }
    auto context =
        minja::Context::make(ordered_json{{"messages", std::move(list)}, {"add_generation_prompt", true}});
    context->set("bos_token", template_.bos);
    context->set("eos_token", template_.eos);
    context->set("strftime_now", strftime_now());
    return root_->render(context);
  }

  /// Whether what such a message says comes through.
  bool takes(const std::string& role, bool typed) const {
    constexpr const char* kMark = "<Needle>";
    std::vector<ChatMessage> messages = {{role, kMark}};
    if (role != "user") messages.push_back({"user", "Hello"});
    try {
      return render(messages, typed).find(kMark) != std::string::npos;
    } catch (const std::exception&) {
      return false;
    }
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

std::string apply_jinja(const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages) {
  const Jinja jinja(chat_template);
  const bool typed = !jinja.takes("user", false) && jinja.takes("user", true);
  const bool system = std::ranges::any_of(messages, [](const ChatMessage& m) { return m.role == "system"; });
  return jinja.render(system && !jinja.takes("system", typed) ? without_system(messages) : messages, typed);
}

std::string apply(const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages,
                  const std::function<void(const std::string& line)>& warning, ChildLimits limits) {
  const auto& source = chat_template.source;
  const auto names = known_template_names();
  if (std::ranges::find(names, source) != names.end()) {
    if (auto text = apply_known(source, messages)) return *text;
    throw Error("llama.cpp's chat template " + source + " does not take these messages");
  }
  constexpr size_t kCopies = 32;  // of a message that minja may make, and more than it does
  for (const auto& m : messages) limits.memory += kCopies * (m.role.size() + m.content.size());
  try {
    return run_in_child(
        "the chat template", [&] { return apply_jinja(chat_template, messages); }, limits);
  } catch (const Error& e) {
    const auto why = first_line_of(e);
    auto text = apply_known(source, messages);
    if (!text) throw Error(why + "; use another one, or none");
    if (warning) warning(why + "; llama.cpp's built-in form of it is used");
    return *text;
  }
}

}  // namespace windowkv
