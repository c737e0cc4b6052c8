#include "server/request.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "server/api_error.h"
#include "server/fields.h"
#include "server/json_grammar.h"
#include "support/bounded_json.h"
#include "support/utf8.h"
#include "windowkv/error.h"

namespace windowkv::server {

namespace {

constexpr int kMostChoices = 128;
constexpr int kMostTopLogprobs = 20;
constexpr size_t kMostPrompts = 2048;
constexpr size_t kMostStops = 64;

void read_sampling(const Fields& fields, GenerateOptions& options) {
  auto& s = options.sampling;
  fields.read("temperature", s.temperature, 0, 100);
  fields.read("top_p", s.top_p, 0, 1);
  fields.read("top_k", s.top_k, -1, 1e9);
  fields.read("min_p", s.min_p, 0, 1);
  fields.read("repeat_penalty", s.repeat_penalty, 0.01, 100);
  fields.read("repeat_last_n", s.penalty_last_n, -1, 1e9);
  fields.read("frequency_penalty", s.frequency_penalty, -100, 100);
  fields.read("presence_penalty", s.presence_penalty, -100, 100);
  fields.read("grammar", s.grammar);
  fields.read("ignore_eos", options.ignore_end);
  fields.read("min_tokens", options.min_tokens, 0, 1 << 30);
  if (const auto* seed = fields.find("seed")) {
    if (!seed->is_number_integer()) fields.refuse("seed", "must be an integer");
    s.seed = static_cast<uint32_t>(seed->get<int64_t>());  // −1 is the random one, as with --seed
  }
  if (const auto* biases = fields.find("logit_bias")) {
    if (!biases->is_object()) fields.refuse("logit_bias", "must map token ids to numbers");
    for (const auto& [id, bias] : biases->items()) {
      char* end = nullptr;
      const auto token = std::strtol(id.c_str(), &end, 10);
      if (id.empty() || *end != '\0' || token < 0 || token > INT32_MAX || !bias.is_number())
        fields.refuse("logit_bias", "must map token ids to numbers");
      s.logit_bias.emplace_back(static_cast<Token>(token), bias.get<float>());
    }
  }
}

void read_stop(const Fields& fields, GenerateOptions& options) {
  const auto* stop = fields.find("stop");
  if (stop == nullptr) return;
  options.stop.clear();
  auto all = stop->is_array() ? *stop : Json::array({*stop});
  if (all.size() > kMostStops) fields.refuse("stop", fmt::format("has more than {} texts", kMostStops));
  for (const auto& text : all) {
    if (!text.is_string()) fields.refuse("stop", "must be a string or an array of strings");
    options.stop.push_back(text.get<std::string>());
  }
}

void read_length(const Fields& fields, GenerateOptions& options) {
  for (const char* name : {"max_tokens", "max_completion_tokens", "n_predict"})
    fields.read(name, options.max_tokens, -1, 1 << 30);
}

void read_logprobs(const Fields& fields, CompletionRequest& request) {
  if (request.chat) {
    bool wanted = false;
    fields.read("logprobs", wanted);
    if (wanted) request.top_logprobs = 0;
    if (fields.find("top_logprobs") != nullptr) {
      if (!wanted) fields.refuse("top_logprobs", "needs logprobs");
      fields.read("top_logprobs", request.top_logprobs, 0, kMostTopLogprobs);
    }
  } else {
    fields.read("logprobs", request.top_logprobs, 0, kMostTopLogprobs);
  }
}

/// A schema that the answer must follow, and the field that it was asked for with.
struct FormatSchema {
  const char* field;
  Json schema;
};

/// A schema asked for by another name than OpenAI's: llama-server's, and vLLM's older and newer one.
std::optional<FormatSchema> bare_schema(const Fields& fields) {
  const auto schema_of = [](const char* field, const Json& schema) {
    return FormatSchema{field,
                        schema.is_string() ? parse_body(schema.get_ref<const std::string&>()) : schema};
  };
  constexpr const char* kStructured = "structured_outputs";
  if (const auto* structured = fields.find(kStructured); structured != nullptr) {
    if (!structured->is_object() || structured->size() != 1 || !structured->contains("json"))
      fields.refuse(kStructured, "is supported with a schema in \"json\" alone");
    return schema_of(kStructured, structured->at("json"));
  }
  for (const char* field : {"json_schema", "guided_json"})
    if (const auto* schema = fields.find(field); schema != nullptr) return schema_of(field, *schema);
  return std::nullopt;
}

/// What response_format asks for, or a field that means the same; nullopt for any text.
std::optional<FormatSchema> format_schema(const Fields& fields) {
  constexpr const char* kField = "response_format";
  const auto* format = fields.find(kField);
  if (format == nullptr) return bare_schema(fields);
  const auto type = format->is_object() ? format->value("type", Json()) : Json();
  if (type == "text") return std::nullopt;
  if (type == "json_object")  // llama-server's may have a schema
    return FormatSchema{kField, format->value("schema", Json{{"type", "object"}})};
  if (type != "json_schema") fields.refuse(kField, "has a type that is not text, json_object or json_schema");
  // OpenAI's clients wrap the schema once more; llama-server takes both.
  const auto wrapped = format->value("json_schema", Json::object());
  return FormatSchema{kField, wrapped.is_object() && wrapped.contains("schema")
                                  ? wrapped["schema"]
                                  : format->value("schema", Json())};
}

/// Constrains the answer to what response_format and tool_choice ask for.
void read_constraints(const Fields& fields, const CallFormat& calls, CompletionRequest& request) {
  auto& grammar = request.generate.sampling.grammar;
  const bool required = request.tools.choice == ToolRequest::Choice::kRequired;
  const auto format = format_schema(fields);
  if (!format && !required) return;
  if (!grammar.empty())
    fields.refuse(required ? "tool_choice" : format->field, "cannot be had together with grammar");
  try {
    if (format) grammar = schema_grammar(format->schema);
  } catch (const Error& e) {
    fields.refuse(format->field, fmt::format("has a schema that is not supported: {}", e.what()));
  }
  if (request.tools.active())
    grammar = calls_grammar(calls, request.tools, required || !format ? nullptr : &format->schema);
}

/// Fields that would change the answer in ways that are not there.
void refuse_unsupported(const Fields& fields, bool chat) {
  auto given = [&](const char* name) {
    const auto* field = fields.find(name);
    if (field == nullptr || (field->is_array() && field->empty())) return false;
    return !(field->is_string() && field->get<std::string>().empty());
  };
  for (const char* name : {"functions", "suffix", "audio", "guided_choice", "guided_regex", "guided_grammar"})
    if (given(name)) fields.refuse(name, "is not supported");
  int mirostat = 0;
  fields.read("mirostat", mirostat, 0, 0);
  if (!chat && given("tools")) fields.refuse("tools", "needs a chat: /v1/chat/completions");
  int best_of = 1;
  fields.read("best_of", best_of, 1, 1);
}

KvRequest kv_of(const Fields& fields) {
  KvRequest kv;
  const auto* object = fields.find("kv");
  if (object == nullptr) return kv;
  if (!object->is_object()) fields.refuse("kv", "must be an object");
  const Fields inner(*object, "kv.");
  inner.read("policy", kv.policy);
  inner.read("budget", kv.budget);
  inner.read("task", kv.task);
  inner.read("recall", kv.recall);
  inner.read("total", kv.total);
  inner.read("show_kept", kv.show_kept);
  constexpr std::array kNames = {"policy", "budget", "task", "recall", "total", "show_kept"};
  for (const auto& [name, value] : object->items())
    if (std::ranges::find(kNames, name) == kNames.end())
      inner.refuse(name.c_str(), fmt::format("is not known; there are {}", fmt::join(kNames, ", ")));
  return kv;
}

std::vector<Token> ids_of(const Json& array, const Fields& fields) {
  std::vector<Token> ids;
  for (const auto& id : array) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX)
      fields.refuse("prompt", "has something among its token ids that is none");
    ids.push_back(id.get<Token>());
  }
  return ids;
}

void read_prompts(const Fields& fields, CompletionRequest& request) {
  const auto* prompt = fields.find("prompt");
  if (prompt == nullptr) fields.refuse("prompt", "is missing");
  auto add = [&](const Json& one) {
    if (one.is_string())
      request.prompts.emplace_back(one.get<std::string>());
    else if (one.is_array())
      request.prompts.emplace_back(ids_of(one, fields));
    else
      fields.refuse("prompt", "must be text, an array of token ids, or an array of either");
  };
  if (prompt->is_array() && !prompt->empty() && !prompt->front().is_number()) {
    if (prompt->size() > kMostPrompts)
      fields.refuse("prompt", fmt::format("has {} prompts, more than {}", prompt->size(), kMostPrompts));
    for (const auto& one : *prompt) add(one);
  } else {
    add(*prompt);
  }
}

/// `optional`: there may be none.
std::string content_of(const Json& message, const std::string& where, bool optional) {
  const auto it = message.find("content");
  if (it == message.end() || it->is_null()) {
    if (optional) return "";
    throw ApiError(400, where + ".content is missing", "messages");
  }
  if (it->is_string()) return it->get<std::string>();
  if (!it->is_array()) throw ApiError(400, where + ".content must be text or an array of parts", "messages");
  std::string text;
  for (const auto& part : *it) {
    const auto type = part.is_object() ? part.value("type", Json()) : Json();
    if ((type != "text" && type != "input_text" && type != "output_text") || !part.contains("text") ||
        !part["text"].is_string())
      throw ApiError(400, where + ".content has a part that is no text, which the model cannot read",
                     "messages");
    text += part["text"].get<std::string>();
  }
  return text;
}

/// What the assistant thought, as an earlier response told it; "reasoning" is other servers' name for it.
std::string reasoning_of(const Json& message, const std::string& where) {
  const Fields fields(message, where + ".");
  std::string text;
  fields.read(fields.find("reasoning_content") != nullptr ? "reasoning_content" : "reasoning", text);
  return text;
}

}  // namespace

Json parse_body(const std::string& body) {
  if (const auto error = utf8_first_error(body); error != std::string::npos)
    throw ApiError(400, fmt::format("the body is not UTF-8 (byte {})", error));
  try {
    return parse_bounded_json(body);
  } catch (const Error& e) {
    throw ApiError(400, fmt::format("the body {}", e.what()));
  }
}

bool optional_flag(const Json& body, const char* name, bool otherwise) {
  Fields(body).read(name, otherwise);
  return otherwise;
}

std::string required_text(const Json& body, const std::string& name) {
  const Fields fields(body);
  const auto* field = fields.find(name.c_str());
  if (field == nullptr) fields.refuse(name.c_str(), "is missing");
  if (!field->is_string()) fields.refuse(name.c_str(), "must be a string");
  return field->get<std::string>();
}

std::vector<ChatMessage> parse_messages(const Json& body) {
  const Fields fields(body);
  const auto* messages = fields.find("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty())
    fields.refuse("messages", "must be an array of at least one message");
  std::vector<ChatMessage> out;
  for (const auto& message : *messages) {
    const auto where = fmt::format("messages[{}]", out.size());
    const auto role = message.is_object() ? message.value("role", Json()) : Json();
    if (!role.is_string()) throw ApiError(400, where + ".role must be a string", "messages");
    const auto name = role.get<std::string>();
    if (name != "system" && name != "developer" && name != "user" && name != "assistant" && name != "tool")
      throw ApiError(
          400, fmt::format("{}.role is \"{}\"; it must be system, user, assistant or tool", where, name),
          "messages");
    out.push_back({name == "developer" ? "system" : name, content_of(message, where, name == "assistant")});
    auto& said = out.back();
    if (name == "assistant") {
      said.tool_calls = tool_calls_of(message, where);
      said.reasoning = reasoning_of(message, where);
    }
    if (name == "tool") Fields(message, where + ".").read("tool_call_id", said.tool_call_id);
  }
  return out;
}

ToolRequest parse_tools(const Json& body) {
  return tools_of(Fields(body));
}

std::string parse_variables(const Json& body) {
  const Fields fields(body);
  auto variables = Json::object();
  if (const auto* effort = fields.find("reasoning_effort")) {
    if (!effort->is_string()) fields.refuse("reasoning_effort", "must be a string");
    variables["reasoning_effort"] = *effort;
  }
  if (const auto* given = fields.find("chat_template_kwargs")) {
    if (!given->is_object()) fields.refuse("chat_template_kwargs", "must be an object");
    for (const char* own : {"messages", "tools"})
      if (given->contains(own))
        fields.refuse("chat_template_kwargs", fmt::format("names \"{}\", which is a field of its own", own));
    variables.update(*given);
  }
  return variables.empty() ? "" : variables.dump();
}

bool parse_reasoning_format(const std::string& name) {
  if (name != "none" && name != "auto" && name != "deepseek")
    throw Error(
        fmt::format("the reasoning format \"{}\" is not known; there are none, auto and deepseek", name));
  return name != "none";
}

CompletionRequest parse_completion(const Json& body, bool chat, const GenerateOptions& defaults,
                                   const CallFormat& calls) {
  const Fields fields(body);
  CompletionRequest request;
  request.chat = chat;
  request.generate = defaults;
  fields.read("model", request.model);
  if (chat) {
    request.messages = parse_messages(body);
    request.tools = tools_of(fields);
    request.variables = parse_variables(body);
    fields.read("reasoning_format", request.reasoning_format);
    if (request.reasoning_format) try {
        parse_reasoning_format(*request.reasoning_format);
      } catch (const Error& e) {
        throw ApiError(400, e.what(), "reasoning_format");
      }
  } else {
    read_prompts(fields, request);
  }
  fields.read("n", request.choices, 1, kMostChoices);
  fields.read("stream", request.stream);
  if (const auto* options = fields.find("stream_options"))
    Fields(*options, "stream_options.").read("include_usage", request.include_usage);
  if (!chat) fields.read("echo", request.echo);
  read_length(fields, request.generate);
  read_sampling(fields, request.generate);
  read_stop(fields, request.generate);
  read_logprobs(fields, request);
  request.own_grammar = fields.find("grammar") != nullptr;
  read_constraints(fields, calls, request);
  refuse_unsupported(fields, chat);
  request.kv = kv_of(fields);
  try {
    request.generate.sampling.validate();
  } catch (const Error& e) {
    throw ApiError(400, e.what());
  }
  return request;
}

}  // namespace windowkv::server
