// Tools: what requests may say of them, how chat templates show them, grammars of calls, and calls in
// answers.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model/chat_template.h"
#include "server/api_error.h"
#include "server/call_formats.h"
#include "server/call_parser.h"
#include "server/request.h"
#include "server/response.h"
#include "server/responses_format.h"
#include "server/responses_request.h"
#include "windowkv/model.h"
#include "windowkv/sampler.h"

namespace windowkv::server {
namespace {

using Json = nlohmann::ordered_json;

const Model& mini() {
  static const auto model = Model::load(WINDOWKV_MODELS_DIR "/minilong-6m-q8_0.gguf");
  return *model;
}

Json weather(const char* name = "get_weather") {
  return {{"type", "function"},
          {"function",
           {{"name", name},
            {"description", "The weather of a city"},
            {"parameters",
             {{"type", "object"},
              {"properties", {{"city", {{"type", "string"}}}, {"days", {{"type", "integer"}}}}},
              {"required", {"city"}}}}}}};
}

Json chat(const Json& more = Json::object()) {
  Json body{{"messages", {{{"role", "user"}, {"content", "How is the weather in Oslo?"}}}},
            {"tools", {weather(), weather("get_tides")}}};
  body.update(more);
  return body;
}

std::string param_of(const Json& body) {
  try {
    parse_completion(body, /*chat=*/true, {});
  } catch (const ApiError& e) {
    EXPECT_EQ(e.status, 400);
    return e.param;
  }
  return "accepted";
}

TEST(ToolRequests, TellWhichFieldIsWrong) {
  EXPECT_EQ(param_of(chat()), "accepted");
  EXPECT_EQ(param_of(chat({{"tools", 3}})), "tools");
  EXPECT_EQ(param_of(chat({{"tools", {3}}})), "tools[0]");
  EXPECT_EQ(param_of(chat({{"tools", {{{"type", "web_search"}}}}})), "tools[0].type");
  EXPECT_EQ(param_of(chat({{"tools", {{{"type", "function"}}}}})), "tools[0].function");
  EXPECT_EQ(param_of(chat({{"tools", {weather(), weather("a \"name\"")}}})), "tools[1].function.name");
  EXPECT_EQ(param_of(chat({{"tool_choice", "always"}})), "tool_choice");
  EXPECT_EQ(param_of(chat({{"tools", Json::array()}, {"tool_choice", "required"}})), "tool_choice");
  EXPECT_EQ(param_of(chat({{"tools", Json::array()}, {"tool_choice", "auto"}})), "accepted");
  EXPECT_EQ(param_of(chat({{"tool_choice", {{"type", "function"}, {"function", {{"name", "x"}}}}}})),
            "tool_choice");
  EXPECT_EQ(param_of(chat({{"tool_choice", "required"}, {"grammar", "root ::= \"a\""}})), "tool_choice");
  EXPECT_EQ(param_of(chat({{"parallel_tool_calls", 1}})), "parallel_tool_calls");
  const auto message = [](const Json& calls) {
    return Json{{"messages",
                 {{{"role", "user"}, {"content", "x"}},
                  {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", calls}}}}};
  };
  EXPECT_EQ(param_of(message({{{"id", "a"}, {"function", {{"name", "f"}, {"arguments", "no JSON"}}}}})),
            "accepted");
  EXPECT_EQ(param_of(message("f")), "messages[1].tool_calls");
  EXPECT_EQ(param_of(message({{{"id", "a"}}})), "messages[1].tool_calls[0].function");
  EXPECT_EQ(param_of(message({{{"function", {{"name", "f"}, {"arguments", 3}}}}})),
            "messages[1].tool_calls[0].function.arguments");
}

TEST(ToolRequests, SayWhatMayBeCalled) {
  using Choice = ToolRequest::Choice;
  const auto tools_of = [](const Json& more) { return parse_tools(chat(more)); };
  EXPECT_EQ(tools_of(Json::object()).choice, Choice::kAuto);
  EXPECT_TRUE(tools_of(Json::object()).parallel);
  EXPECT_EQ(tools_of({{"tool_choice", "none"}}).choice, Choice::kNone);
  EXPECT_EQ(tools_of({{"tool_choice", "none"}}).json, "");
  EXPECT_EQ(tools_of({{"tool_choice", "required"}}).tools.size(), 2U);
  const auto named =
      tools_of({{"tool_choice", {{"type", "function"}, {"function", {{"name", "get_tides"}}}}}});
  EXPECT_EQ(named.choice, Choice::kRequired);
  ASSERT_EQ(named.tools.size(), 1U);
  EXPECT_EQ(named.tools[0].name, "get_tides");
  EXPECT_NE(named.json.find("get_weather"), std::string::npos);  // the prompt is the same
}

/// The text, and NAME(ARGUMENTS) for each call, of an answer that comes in pieces of that many bytes.
std::string parsed(const std::string& answer, size_t piece, bool parallel = true) {
  const auto parameters = Json::parse(R"({"type": "object", "properties": {
      "city": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": ["boolean", "null"]}}})");
  CallParser parser({{"get_weather", parameters}, {"get_tides", parameters}}, parallel);
  std::string text, calls;
  const auto add = [&](const CallParser::Found& found) {
    text += found.text;
    for (const auto& call : found.calls) {
      EXPECT_EQ(call.id.size(), 9U);
      calls += "|" + call.name + call.arguments;
    }
  };
  for (size_t at = 0; at < answer.size(); at += piece) add(parser.push(answer.substr(at, piece)));
  add(parser.finish());
  return text + calls;
}

TEST(Calls, AreFoundInEveryFormHoweverTheyCome) {
  const std::string oslo = R"({"name": "get_weather", "arguments": {"city": "Oslo"}})";
  const std::string tides = R"({"name": "get_tides", "parameters": {"city": "a \"}\" b", "days": 2}})";
  const std::string called = R"(|get_weather{"city":"Oslo"})";
  const std::string both = called + R"(|get_tides{"city":"a \"}\" b","days":2})";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"<tool_call>\n" + oslo + "\n</tool_call>", called},
      {"Let me see.\n\n<tool_call>\n" + oslo + "\n</tool_call>\n<tool_call>" + tides + "</tool_call>",
       "Let me see." + both},
      {"<tool_call>{" + oslo + "}</tool_call>", called},
      {"{" + oslo, called},
      {" " + oslo + "; " + tides, both},
      {"<|python_tag|>" + tides, both.substr(called.size())},
      {"[TOOL_CALLS][" + oslo + ", " + tides + "]", both},
      {"[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Oslo\"}[TOOL_CALLS]get_weather{\"city\": \"Oslo\"}",
       called + called},
      {"[" + oslo + "," + tides + "]\n", both},
      {"```json\n" + oslo + "\n```", called},
      {"Here:\n```json\n" + oslo + "\n```\n", "Here:" + called},
      {R"(<tool_call>{"name": "get_weather"}</tool_call>)", "|get_weather{}"},
      {R"(<tool_call>{"arguments": "{\"city\": \"Oslo\"}", "name": "get_weather"}</tool_call>)", called},
      {"<tool_call>" + oslo + "</tool_call> Done.", "Done." + called},
      // Qwen3-Coder's, with its mark and without
      {"I "
       "look.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</"
       "tool_call>",
       "I look." + called},
      {"<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n", called},
      {"<tool_call>\n<function=get_tides>\n<parameter=city>\na \"}\" "
       "b\n</parameter>\n<parameter=days>\n2\n</parameter>"
       "\n</function>\n</tool_call>\n<tool_call>\n<function=get_weather>\n</function>\n</tool_call>",
       both.substr(called.size()) + "|get_weather{}"},
      // Seed-OSS's, MiniMax-M2's, GLM-4.5's
      {"<seed:tool_call>\n<function=get_weather>\n<parameter=city>Oslo</parameter>\n</function>\n</"
       "seed:tool_call>",
       called},
      {"<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter "
       "name=\"city\">Oslo</parameter>\n</invoke>\n"
       "<invoke name=\"get_tides\">\n<parameter name=\"city\">a \"}\" b</parameter>\n<parameter "
       "name=\"days\">2"
       "</parameter>\n</invoke>\n</minimax:tool_call>",
       both},
      {"<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>"
       "<tool_call>get_tides\n</tool_call>",
       called + "|get_tides{}"},
      // gpt-oss's, in both orders
      {"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": "
       "\"Oslo\"}<|call|>",
       called},
      {" to=functions.get_weather<|channel|>commentary json<|message|>{\"city\": \"Oslo\"}", called},
      // Values are of the types that are asked for, or text.
      {"<function=get_tides><parameter=city>12</parameter><parameter=days>two</"
       "parameter><parameter=exact>True"
       "</parameter><parameter=more>[1]</parameter></function>",
       R"(|get_tides{"city":"12","days":"two","exact":true,"more":"[1]"})"},
      {"<function=get_tides><parameter=city>\xC3</parameter></function>",
       "|get_tides{\"city\":\"\xEF\xBF\xBD\"}"},
      {"<function=get_tides><parameter=exact>None</parameter></function>", R"(|get_tides{"exact":null})"},
      // And what is text.
      {"It is sunny. \n", "It is sunny. \n"},
      {"a < b, [TOOL and <tool_call", "a < b, [TOOL and <tool_call"},
      {"```json\n{\"a\": [1]}\n```\n", "```json\n{\"a\": [1]}\n```\n"},
      {R"({"name": "Ann", "arguments": {}} is it.)", R"({"name": "Ann", "arguments": {}} is it.)"},
      {R"({"name": "get_weather"})", R"({"name": "get_weather"})"},
      {R"(<tool_call>{"name": "get_weather", "arguments": {"city": }}</tool_call>)",
       R"(<tool_call>{"name": "get_weather", "arguments": {"city": }}</tool_call>)"},
      {R"(<tool_call>{"name": "get_weather", "arguments": [1]}</tool_call>)",
       R"(<tool_call>{"name": "get_weather", "arguments": [1]}</tool_call>)"},
      {R"(<tool_call>{"name": "get_weather", "argum)", R"(<tool_call>{"name": "get_weather", "argum)"},
      {"<function=get_rain>\n</function>", "<function=get_rain>\n</function>"},
      {"<tool_call>get_weather\n<arg_key>city</arg_key>\nOslo",
       "<tool_call>get_weather\n<arg_key>city</arg_key>\nOslo"},
      // Behind a call it is the beginning of another one.
      {"<tool_call>" + oslo + "</tool_call>\n<tool_call>\n{\"name\": \"get_w", called},
      {"<function=get_weather><parameter=city>Os", "<function=get_weather><parameter=city>Os"},
      {"It says to=functions.get_weather.", "It says to=functions.get_weather."},
      {"<tool_call>{\"name\": \"get_weather\", \"arguments\": " + std::string(3000, '['),
       "<tool_call>{\"name\": \"get_weather\", \"arguments\": " + std::string(3000, '[')},
      {"<tool_call>" + std::string(3000, '{') + std::string(3000, '}'),
       "<tool_call>" + std::string(3000, '{') + std::string(3000, '}')},
  };
  for (const auto& [answer, expected] : cases)
    for (const size_t piece : {size_t{1}, size_t{7}, answer.size()})
      EXPECT_EQ(parsed(answer, piece), expected) << answer.substr(0, 100) << "\nin pieces of " << piece;
  EXPECT_EQ(parsed("<tool_call>" + oslo + "</tool_call><tool_call>" + tides + "</tool_call>", 5, false),
            called);
}

/// Whether a grammar takes all of the text, and then its end.
bool takes(const std::string& grammar, const std::string& text) {
  const auto& vocab = mini().vocab();
  const int n_vocab = mini().hparams().n_vocab;
  SamplingOptions sampling;
  sampling.grammar = grammar;
  Sampler sampler(sampling, n_vocab, {}, &vocab);
  auto tokens = vocab.tokenize(PromptText{text, {}});
  tokens.erase(tokens.begin(), tokens.begin() + std::ssize(vocab.tokenize("")));
  Token end = 0;
  while (!vocab.is_end(end)) ++end;
  tokens.push_back(end);
  return std::ranges::all_of(tokens, [&](Token token) {
    std::vector<float> logits(static_cast<size_t>(n_vocab));
    logits[static_cast<size_t>(token)] = 100;
    return sampler.sample(logits) == token;
  });
}

TEST(Calls, ThatAreRequiredFollowAGrammarOfTheModelsForm) {
  const auto grammar_of = [](const char* chat_template, const Json& more) {
    return parse_completion(chat(more), true, {}, call_format(chat_template)).generate.sampling.grammar;
  };
  const std::string oslo = R"({"name": "get_weather", "arguments": {"city": "Oslo"}})";
  const std::string tides = R"({"name": "get_tides", "arguments": {"city": "Oslo", "days": 2}})";
  const Json required{{"tool_choice", "required"}};
  EXPECT_EQ(grammar_of("<tool_call>", Json::object()), "");
  const auto hermes = grammar_of("... <tool_call> ...", required);
  EXPECT_TRUE(takes(hermes, "<tool_call>\n" + oslo + "\n</tool_call>"));
  EXPECT_TRUE(
      takes(hermes, "<tool_call>\n" + oslo + "\n</tool_call>\n<tool_call>\n" + tides + "\n</tool_call>"));
  EXPECT_FALSE(takes(hermes, "It is sunny."));
  EXPECT_FALSE(
      takes(hermes, "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"days\": 1}}\n</tool_call>"));
  const auto one = grammar_of("<tool_call>",
                              {{"tool_choice", {{"type", "function"}, {"function", {{"name", "get_tides"}}}}},
                               {"parallel_tool_calls", false}});
  EXPECT_TRUE(takes(one, "<tool_call>\n" + tides + "\n</tool_call>"));
  EXPECT_FALSE(takes(one, "<tool_call>\n" + oslo + "\n</tool_call>"));
  EXPECT_FALSE(
      takes(one, "<tool_call>\n" + tides + "\n</tool_call>\n<tool_call>\n" + tides + "\n</tool_call>"));
  EXPECT_TRUE(takes(grammar_of("[TOOL_CALLS]", required), "[TOOL_CALLS][" + oslo + ", " + tides + "]"));
  EXPECT_TRUE(
      takes(grammar_of("[TOOL_CALLS][ARGS]", required), "[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Oslo\"}"));
  EXPECT_TRUE(takes(grammar_of("{\"parameters\": x}", required),
                    R"({"name": "get_weather", "parameters": {"city": "Oslo"}})"));
  EXPECT_TRUE(takes(grammar_of("chatml", required), oslo));
  // An answer of another form may be had as well.
  const auto either = grammar_of("<tool_call>", {{"response_format", {{"type", "json_object"}}}});
  EXPECT_TRUE(takes(either, "<tool_call>\n" + oslo + "\n</tool_call>"));
  EXPECT_TRUE(takes(either, R"({"answer": 1})"));
  EXPECT_FALSE(takes(either, "Sunny"));
  // A schema that is not understood allows any object, unless it must hold.
  auto odd = weather();
  odd["function"]["parameters"]["properties"]["city"]["pattern"] = "^O";
  EXPECT_TRUE(takes(grammar_of("", {{"tools", {odd}}, {"tool_choice", "required"}}),
                    R"({"name": "get_weather", "arguments": {"x": 1}})"));
  odd["function"]["strict"] = true;
  EXPECT_EQ(param_of(chat({{"tools", {odd}}, {"tool_choice", "required"}})), "tools");
}

const std::vector<ChatMessage> kTurn = {
    {"system", "Be brief."},
    {"user", "How is the weather in Oslo?"},
    {"assistant", "", {{"call00001", "get_weather", R"({"city": "Oslo"})"}}},
    {"tool", "rain", {}, "call00001"}};

TEST(ChatTemplates, ShowToolsAsTheyKnowThem) {
  const auto tools = Json::array({weather()}).dump();
  // As Qwen's and Llama's: arguments are objects, contents may be null.
  const std::string knows =
      "{% for t in tools %}<{{ t.function.name }}>{% endfor %}{% for m in messages %}[{{ m.role }}]"
      "{% if m.content %}{{ m.content }}{% endif %}{% for c in m.tool_calls %}{{ c.function.name }}"
      "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}";
  EXPECT_EQ(apply_jinja({knows, "", ""}, kTurn, tools),
            "<get_weather>[system]Be brief.[user]How is the weather in Oslo?[assistant]get_weather{\"city\": "
            "\"Oslo\"}[tool]rain");
  // As DeepSeek's: arguments are text.
  const std::string text =
      "{% for t in tools %}<{{ t.function.name }}>{% endfor %}{% for m in messages %}[{{ m.role }}]"
      "{{ m.content }}{% for c in m.tool_calls %}{{ c.function.name + c.function.arguments }}{% endfor %}{% "
      "endfor %}";
  EXPECT_NE(apply_jinja({text, "", ""}, kTurn, tools).find(R"(get_weather{"city": "Oslo"})"),
            std::string::npos);
}

TEST(ChatTemplates, ThatKnowNoToolsGetThemAsText) {
  const auto tools = Json::array({weather()}).dump();
  for (const char* source :
       {"chatml", "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"}) {
    const auto prompt = mini().vocab().apply_chat_template(kTurn, source, tools).text;
    for (const char* part :
         {"Be brief.\n\nYou can call these functions:\n{\"name\":\"get_weather\"",
          R"({"name": "get_weather", "arguments": {"city":"Oslo"}})", "Result of get_weather:\nrain"})
      EXPECT_NE(prompt.find(part), std::string::npos) << part << "\n" << prompt;
  }
  // Calls of a conversation that goes on without tools.
  const auto prompt = mini().vocab().apply_chat_template(kTurn, "chatml").text;
  EXPECT_EQ(prompt.find("You can call"), std::string::npos);
  EXPECT_NE(prompt.find("Result of get_weather:\nrain"), std::string::npos);
}

// What a tool, its description, a call or a result spell out is text, however JSON hides it.
TEST(ChatTemplates, TakeNoControlTokensFromTools) {
  auto tool = Json::parse(R"({"type": "function", "function": {"name": "f", "description": "<|im_end\u007c>",
                              "parameters": {"properties": {"<|im_start|>x": {"type": "string"}}}}})");
  std::vector<ChatMessage> messages = {
      {"user", "Hello"},
      {"assistant", "", {{"<|im_end|>", "f", R"({"x": "\u003c|im_end|>"})"}}},
      {"tool", "<|im_end|>", {}, "<|im_end|>"},
      {"assistant", "", {{"b", "f", "<|im_end|> is no JSON"}}}};
  const std::string knows =
      "{{ tools | tojson }}{% for m in messages %}<|im_start|>{{ m.content or '' }}{{ m.tool_call_id or '' }}"
      "{% for c in m.tool_calls %}{{ c | tojson }}{% endfor %}<|im_end|>\n{% endfor %}";
  for (const std::string source : {"chatml", knows.c_str()}) {
    const auto prompt = mini().vocab().apply_chat_template(messages, source, Json::array({tool}).dump());
    const auto tokens = mini().vocab().tokenize(prompt);
    EXPECT_EQ(std::ranges::count(tokens, 2), 4 + (source == "chatml" ? 1 : 0)) << prompt.text;
    EXPECT_EQ(mini().vocab().text(tokens, true).find("\xEF\xB7"), std::string::npos);
  }
}

ChoiceText calling() {
  return {.text = "",
          .calls = {{"a", "get_weather", "{}"}, {"b", "get_tides", R"({"city":"Oslo"})"}},
          .logprobs = {},
          .finished = StopReason::kEnd};
}

std::vector<Json> events_of(const std::string& stream) {
  std::vector<Json> events;
  for (size_t at = 0; (at = stream.find("data: ", at)) != std::string::npos; ++at)
    if (const auto data = stream.substr(at + 6, stream.find('\n', at) - at - 6); data != "[DONE]")
      events.push_back(Json::parse(data));
  return events;
}

TEST(Responses, HaveCallsAsChatsHaveThem) {
  CompletionRequest request;
  CompletionFormat format({.chat = true, .id = "x", .model = "mini"}, request, mini().vocab());
  const auto choice = calling();
  const auto whole = format.whole(std::span(&choice, 1), {})["choices"][0];
  EXPECT_TRUE(whole["message"]["content"].is_null());
  EXPECT_EQ(whole["finish_reason"], "tool_calls");
  EXPECT_EQ(whole["message"]["tool_calls"][1]["function"]["arguments"], R"({"city":"Oslo"})");
  Delta delta;
  delta.text = "So:";
  auto events = events_of(format.event(0, delta, true));
  delta = {.text = {}, .calls = choice.calls, .logprobs = {}, .finished = StopReason::kEnd};
  const auto more = events_of(format.event(0, delta, false));
  ASSERT_EQ(events.size(), 1U);
  ASSERT_EQ(more.size(), 5U);
  EXPECT_EQ(events[0]["choices"][0]["delta"]["content"], "So:");
  const auto& second = more[2]["choices"][0]["delta"]["tool_calls"][0];
  EXPECT_EQ(second["index"], 1);
  EXPECT_EQ(second["function"]["name"], "get_tides");
  EXPECT_EQ(more[3]["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"], R"({"city":"Oslo"})");
  EXPECT_TRUE(more[3]["choices"][0]["finish_reason"].is_null());
  EXPECT_EQ(more[4]["choices"][0]["finish_reason"], "tool_calls");
}

TEST(Responses, HaveCallsAsItems) {
  const Json body{{"input", "x"}, {"tools", {{{"type", "function"}, {"name", "get_weather"}}}}};
  ResponsesFormat format({.chat = true, .id = "x", .model = "mini"}, body);
  const auto choice = calling();
  const auto output = format.whole(std::span(&choice, 1), {})["output"];
  ASSERT_EQ(output.size(), 2U);
  EXPECT_EQ(output[1]["type"], "function_call");
  EXPECT_EQ(output[1]["call_id"], "b");
  auto stream = format.begin();
  stream += format.event(0, {.text = "So:", .calls = {}, .logprobs = {}, .finished = {}}, true);
  stream += format.event(0, {.text = {}, .calls = choice.calls, .logprobs = {}, .finished = StopReason::kEnd},
                         false);
  stream += format.end({});
  const auto events = events_of(stream);
  for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i]["sequence_number"], i);
  const auto& last = events.back()["response"];
  EXPECT_EQ(last["status"], "completed");
  ASSERT_EQ(last["output"].size(), 3U);
  EXPECT_EQ(last["output"][0]["content"][0]["text"], "So:");
  EXPECT_EQ(last["output"][2]["arguments"], R"({"city":"Oslo"})");
  EXPECT_EQ(last["tools"][0]["name"], "get_weather");
}

TEST(Responses, BecomeChatsWithTheSameTurns) {
  const auto chat_body = chat_body_of(
      {{"input",
        {{{"role", "user"}, {"content", "x"}},
         {{"type", "message"},
          {"role", "assistant"},
          {"content", {{{"type", "output_text"}, {"text", "So:"}}}}},
         {{"type", "function_call"}, {"call_id", "a"}, {"name", "get_weather"}, {"arguments", "{}"}},
         {{"type", "function_call"}, {"call_id", "b"}, {"name", "get_weather"}, {"arguments", "{}"}},
         {{"type", "function_call_output"}, {"call_id", "a"}, {"output", "rain"}},
         {{"type", "function_call_output"}, {"call_id", "b"}, {"output", "sun"}}}},
       {"tools", {{{"type", "function"}, {"name", "get_weather"}, {"strict", true}}}},
       {"tool_choice", {{"type", "function"}, {"name", "get_weather"}}}});
  const auto messages = parse_messages(chat_body);
  ASSERT_EQ(messages.size(), 4U);
  EXPECT_EQ(messages[1].content, "So:");
  ASSERT_EQ(messages[1].tool_calls.size(), 2U);
  EXPECT_EQ(messages[1].tool_calls[1].id, "b");
  EXPECT_EQ(messages[3].content, "sun");
  EXPECT_EQ(messages[3].tool_call_id, "b");
  const auto tools = parse_tools(chat_body);
  EXPECT_TRUE(tools.tools.at(0).strict);
  EXPECT_EQ(tools.choice, ToolRequest::Choice::kRequired);
  EXPECT_THROW(chat_body_of({{"input", "x"}, {"tools", {{{"type", "web_search"}}}}}), ApiError);
  EXPECT_THROW(chat_body_of({{"input", {{{"type", "item_reference"}}}}}), ApiError);
}

}  // namespace
}  // namespace windowkv::server
