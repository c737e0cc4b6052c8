#include "model/chat_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <minja/chat-template.hpp>
#include <stdexcept>

#include "windowkv/error.h"

namespace windowkv {

std::string render_chat_template_here(const std::string& source, const std::string& bos,
                                      const std::string& eos, std::span<const ChatMessage> messages) try {
  const minja::chat_template engine(source, bos, eos);
  minja::chat_template_inputs inputs;
  inputs.messages = nlohmann::ordered_json::array();
  for (const auto& m : messages) inputs.messages.push_back({{"role", m.role}, {"content", m.content}});
  return engine.apply(inputs);
} catch (const std::runtime_error& e) {
  // Behind the first line minja shows the places, of the outer expressions too.
  std::string line(e.what());
  line.resize(std::min(line.find('\n'), line.size()));
  if (line.ends_with(':')) line.pop_back();
  throw std::runtime_error(line);
}

std::string render_chat_template(const std::string& source, const std::string& bos, const std::string& eos,
                                 std::span<const ChatMessage> messages, ChildLimits limits) {
  constexpr size_t kCopies = 32;  // of a message that minja may make, and more than it does
  for (const auto& m : messages) limits.memory += kCopies * (m.role.size() + m.content.size());
  try {
    return run_in_child(
        "the chat template", [&] { return render_chat_template_here(source, bos, eos, messages); }, limits);
  } catch (const Error& e) {
    throw Error(fmt::format("{}; use --no-chat", e.what()));
  }
}

}  // namespace windowkv
