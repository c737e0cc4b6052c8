// Renders chats for tools/compare_templates.py: a JSON object a line on standard input, {"template": Jinja
// text, "messages", "tools", "variables", "bos", "eos"}; for each a line {"text", "context"} or {"error"}.
#include <iostream>
#include <nlohmann/json.hpp>

#include "model/chat_template.h"
#include "server/request.h"
#include "support/child.h"

using namespace windowkv;
using Json = nlohmann::ordered_json;

namespace {

Json rendered(const Json& given) {
  const auto tools = given.contains("tools") ? given["tools"].dump() : "";
  const auto variables = given.contains("variables") ? given["variables"].dump() : "";
  const ChatTemplate chat_template{given.at("template"), given.value("bos", ""), given.value("eos", ""),
                                   variables};
  const auto messages = server::parse_messages(server::Json::parse(given.dump()));
  Json out;
  out["text"] =
      run_in_child("the chat template", [&] { return apply_jinja(chat_template, messages, tools); });
  out["context"] = Json::parse(
      run_in_child("the chat template", [&] { return jinja_context(chat_template, messages, tools); }));
  return out;
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    Json out;
    try {
      out = rendered(Json::parse(line));
    } catch (const std::exception& e) {
      out = {{"error", e.what()}};
    }
    std::cout << out.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
  }
}
