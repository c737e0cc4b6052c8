// The server: what requests may say, jobs that are batched, prefixes that later prompts reuse, and HTTP.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "server/http_server.h"
#include "server/json_grammar.h"
#include "support/files.h"
#include "support/models.h"
#include "windowkv/error.h"
#include "windowkv/generate.h"
#include "windowkv/sampler.h"

namespace windowkv::server {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using std::chrono::milliseconds;

const Model& mini() {
  static const auto model = Model::load(WINDOWKV_MODELS_DIR "/minilong-6m-q8_0.gguf");
  return *model;
}

/// Sentences, about `words` words long, that say a number of each of some towns.
std::string document(int words, int seed = 1) {
  constexpr std::array kTowns = {"Lisbon", "Oslo", "Vienna", "Madrid", "Dublin", "Prague"};
  std::string text;
  for (int i = 0; i * 8 < words; ++i)
    text += fmt::format("The number of {} is {}. ", kTowns[static_cast<size_t>(i) % kTowns.size()],
                        1000 + (i * 7919 + seed * 104729) % 9000);
  return text;
}

ServiceOptions options(const std::string& budget = "12%:64") {
  ServiceOptions o;
  o.model_names = {"mini", "mini.gguf"};
  o.context = 8192;
  o.chat_template = "chatml";
  o.generate.max_tokens = 16;
  o.grammars = true;
  o.batcher.kv_memory = 256 << 20;
  o.batcher.engine.chunk = 256;
  o.prefixes.memory = 256 << 20;
  o.prefixes.warning = [](const std::string&) {};
  o.policy = [budget](const KvRequest& kv, const std::string&, Task&) -> std::shared_ptr<const Policy> {
    PolicyOptions p{Budget::parse(kv.budget.value_or(budget)),
                    make_config("default", Task::kLocalization, 6)};
    if (kv.recall) p.recall = std::stoi(*kv.recall);
    return make_policy(kv.policy.value_or("windowkv"), p);
  };
  return o;
}

CompletionRequest completion(const std::string& prompt, int64_t max_tokens = 16) {
  GenerateOptions generate;
  generate.max_tokens = max_tokens;
  generate.ignore_end = true;
  CompletionRequest request;
  request.prompts = {prompt};
  request.generate = generate;
  return request;
}

struct Collected {
  std::string text;
  Usage usage;
  int deltas = 0;
};

Collected collect(Answer& answer) {
  Collected out;
  while (!answer.finished())
    if (auto delta = answer.next(milliseconds(100))) {
      out.text += delta->text;
      ++out.deltas;
    }
  out.usage = answer.usage();
  return out;
}

Collected ask(Service& service, const CompletionRequest& request, const std::string& owner = "") {
  return collect(*service.submit(request, owner, "test").front()->answer);
}

int status_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ApiError& e) {
    return e.status;
  }
  return 200;
}

std::string param_of(const Json& body, bool chat) {
  try {
    parse_completion(body, chat, {});
  } catch (const ApiError& e) {
    EXPECT_EQ(e.status, 400);
    return e.param;
  }
  return "accepted";
}

TEST(CompletionRequests, TellWhichFieldIsWrong) {
  const Json good = {{"prompt", "x"}};
  auto with = [&](const char* name, const Json& value) {
    Json body = good;
    body[name] = value;
    return param_of(body, false);
  };
  EXPECT_EQ(param_of(good, false), "accepted");
  EXPECT_EQ(param_of(Json::object(), false), "prompt");
  EXPECT_EQ(with("temperature", "hot"), "temperature");
  EXPECT_EQ(with("temperature", -1), "temperature");
  EXPECT_EQ(with("temperature", nullptr), "accepted");
  EXPECT_EQ(with("repeat_penalty", 0.01), "accepted");
  EXPECT_EQ(with("max_tokens", 1.5), "max_tokens");
  EXPECT_EQ(with("max_tokens", -2), "max_tokens");
  EXPECT_EQ(with("top_k", -1), "accepted");
  EXPECT_EQ(with("repeat_last_n", -1), "accepted");
  EXPECT_EQ(with("repeat_last_n", -2), "repeat_last_n");
  EXPECT_EQ(with("mirostat", 2), "mirostat");
  EXPECT_EQ(with("mirostat", 0), "accepted");
  EXPECT_EQ(with("guided_regex", "a+"), "guided_regex");
  EXPECT_EQ(with("structured_outputs", {{"regex", "a+"}}), "structured_outputs");
  EXPECT_EQ(with("json_schema", {{"type", "text"}}), "json_schema");
  EXPECT_EQ(with("n", 0), "n");
  EXPECT_EQ(with("n", 100000), "n");
  EXPECT_EQ(with("stop", 3), "stop");
  EXPECT_EQ(with("stop", {"a", 1}), "stop");
  EXPECT_EQ(with("stream", "yes"), "stream");
  EXPECT_EQ(with("logprobs", 21), "logprobs");
  EXPECT_EQ(with("logit_bias", {{"x", 1}}), "logit_bias");
  EXPECT_EQ(with("prompt", {1, -1}), "prompt");
  EXPECT_EQ(with("prompt", {{"a", 1}}), "prompt");
  EXPECT_EQ(with("kv", 1), "kv");
  EXPECT_EQ(with("kv", {{"buget", "12%"}}), "kv.buget");
  EXPECT_EQ(with("kv", {{"budget", 512}, {"recall", "2"}}), "accepted");
  EXPECT_EQ(with("tools", Json::array()), "accepted");
  EXPECT_EQ(with("tools", {Json::object()}), "tools");  // of a chat alone
  EXPECT_EQ(with("something_new", 1), "accepted");
  EXPECT_EQ(param_of({{"messages", Json::array()}}, true), "messages");
  EXPECT_EQ(param_of({{"messages", {{{"role", "boss"}, {"content", "x"}}}}}, true), "messages");
  EXPECT_EQ(param_of({{"messages", {{{"role", "user"}}}}}, true), "messages");
  EXPECT_EQ(param_of({{"messages", {{{"role", "user"}, {"content", nullptr}}}}}, true), "messages");
  EXPECT_EQ(param_of({{"messages", {{{"role", "user"}, {"content", {{{"type", "image_url"}}}}}}}}, true),
            "messages");
  EXPECT_EQ(
      param_of({{"messages", {{{"role", "user"}, {"content", {{{"type", "text"}, {"text", "x"}}}}}}}}, true),
      "accepted");
}

TEST(CompletionRequests, TakeASchemaAsEachServerSpellsIt) {
  const Json schema = {{"type", "object"}, {"properties", {{"city", {{"enum", {"Oslo"}}}}}}};
  const auto grammar = schema_grammar(schema);
  for (const Json& more :
       {Json{{"response_format", {{"type", "json_schema"}, {"json_schema", {{"schema", schema}}}}}},
        Json{{"response_format", {{"type", "json_object"}, {"schema", schema}}}},
        Json{{"json_schema", schema}}, Json{{"guided_json", schema}}, Json{{"guided_json", schema.dump()}},
        Json{{"structured_outputs", {{"json", schema}}}}}) {
    Json body = more;
    body["prompt"] = "x";
    EXPECT_EQ(parse_completion(body, false, {}).generate.sampling.grammar, grammar) << more;
  }
}

TEST(CompletionRequests, RefuseWhatIsNoJson) {
  EXPECT_EQ(status_of([] { parse_body("{"); }), 400);
  EXPECT_EQ(status_of([] { parse_body("\"\xff\""); }), 400);
  EXPECT_EQ(status_of([] { parse_body(std::string(100000, '[')); }), 400);
  EXPECT_EQ(status_of([] { parse_completion(parse_body("[1]"), false, {}); }), 400);
}

/// Whether a sampler of the grammar takes all of the text, and then its end.
bool takes(const std::string& grammar, const std::string& text) {
  const auto& vocab = mini().vocab();
  SamplingOptions sampling;
  sampling.grammar = grammar;
  Sampler sampler(sampling, mini().hparams().n_vocab, {}, &vocab);
  auto tokens = vocab.tokenize(PromptText{text, {}});
  tokens.erase(tokens.begin(), tokens.begin() + std::ssize(vocab.tokenize("")));
  std::vector<float> logits(static_cast<size_t>(mini().hparams().n_vocab));
  for (Token token = 0; token < mini().hparams().n_vocab; ++token)
    if (vocab.is_end(token)) tokens.push_back(token);
  for (const auto token : tokens) {
    logits.assign(logits.size(), 0.0f);
    logits[static_cast<size_t>(token)] = 100.0f;
    if (sampler.sample(logits) != token) return false;
    if (vocab.is_end(token)) break;
  }
  return true;
}

TEST(JsonGrammars, TakeWhatTheSchemaAllows) {
  const auto grammar =
      schema_grammar(Json::parse(R"({"type": "object", "required": ["name", "tags"], "properties": {
      "name": {"type": "string", "maxLength": 8}, "age": {"type": ["integer", "null"]},
      "tags": {"type": "array", "items": {"enum": ["a", "b \"c\"", 3]}, "minItems": 1, "maxItems": 2},
      "child": {"$ref": "#"}}, "additionalProperties": false})"));
  EXPECT_TRUE(takes(grammar, R"({"name": "x", "tags": ["a"]})"));
  EXPECT_TRUE(takes(grammar, R"({"name": "x", "tags": [3, "b \"c\""], "age": null})"));
  EXPECT_TRUE(takes(grammar, R"({"name":"x","tags":["a"],"age":-12,"child":{"name":"y","tags":[3]}})"));
  EXPECT_FALSE(takes(grammar, R"({"name": "x"})"));
  EXPECT_FALSE(takes(grammar, R"({"name": "x", "tags": []})"));
  EXPECT_FALSE(takes(grammar, R"({"name": "x", "tags": ["a", "a", "a"]})"));
  EXPECT_FALSE(takes(grammar, R"({"name": "123456789", "tags": ["a"]})"));
  EXPECT_FALSE(takes(grammar, R"({"name": "x", "tags": ["a"], "other": 1})"));
  EXPECT_FALSE(takes(grammar, R"({"name": "x", "tags": ["a"], "age": "1"})"));
  const auto optional = schema_grammar(Json::parse(
      R"({"properties": {"a": {"const": 1}, "b": {"anyOf": [{"type": "number"}, {"type": "boolean"}]}}})"));
  for (const char* text : {"{}", R"({"a": 1})", R"({"b": 2.5e3})", R"({"a": 1, "b": true})"})
    EXPECT_TRUE(takes(optional, text)) << text;
  for (const char* text : {"[]", R"({"a": 2})", R"({"b": 1, "a": 1})"})
    EXPECT_FALSE(takes(optional, text)) << text;
  EXPECT_TRUE(takes(json_grammar(), R"({"x": [1, {"y": "é\n"}, null], "z": -0.5})"));
  EXPECT_FALSE(takes(json_grammar(), R"(["x"])"));
  for (const char* bad : {R"({"type": "text"})", R"({"pattern": "a"})", R"({"$ref": "#/nowhere"})",
                          R"({"$ref": "#"})", R"({"required": ["x"], "properties": {}})", "3"})
    EXPECT_THROW(schema_grammar(Json::parse(bad)), Error) << bad;
  for (const char* beside :
       {R"({"type": "object", "properties": {}, "anyOf": [{"required": ["a"]}]})",
        R"({"type": "array", "anyOf": [{"minItems": 1}]})", R"({"enum": ["abc"], "maxLength": 1})",
        R"({"const": 1, "enum": [2]})", R"({"type": "integer", "const": 1.5})",
        R"({"type": "string", "enum": [1]})",
        R"({"$ref": "#/$defs/a", "type": "string", "$defs": {"a": {"type": "integer"}}})",
        R"({"type": "object", "required": 5})", R"({"type": "object", "required": ["a"], "properties": {}})",
        R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})"})
    EXPECT_THROW(schema_grammar(Json::parse(beside)), Error) << beside;
  const auto strings = schema_grammar(Json::parse(R"({"type": "string", "enum": ["a", 1, "b"]})"));
  EXPECT_TRUE(takes(strings, R"("b")"));
  EXPECT_FALSE(takes(strings, "1"));
}

TEST(Batches, AnswerEachPromptAsIfItWereAlone) {
  std::vector<std::string> alone;
  std::vector<CompletionRequest> requests;
  for (int i = 0; i < 8; ++i)
    requests.push_back(completion(document(60 + 90 * i, i) + "The number of Oslo is", 6 + i));
  auto o = options();
  o.batcher.stores = false;
  // Short steps of a slow machine would multiply quantized weights in another way than a whole chunk.
  o.batcher.max_stall_ms = 1e9;
  {
    Service service(mini(), o);
    for (const auto& request : requests) alone.push_back(ask(service, request).text);
  }
  Service service(mini(), o);
  std::vector<std::shared_ptr<Job>> jobs;
  for (const auto& request : requests) jobs.push_back(service.submit(request, "", "test").front());
  for (size_t i = 0; i < jobs.size(); ++i) {
    const auto got = collect(*jobs[i]->answer);
    EXPECT_EQ(got.text, alone[i]) << i;
    EXPECT_EQ(got.usage.completion_tokens, 6 + static_cast<int64_t>(i));
  }
  EXPECT_GT(service.metrics().generated_tokens, service.metrics().decode_steps);  // together
  EXPECT_EQ(service.metrics().kv_resident, 0);
}

TEST(Batches, GoOnWhileALongPromptIsRead) {
  auto o = options();
  o.batcher.max_stall_ms = 0;
  Service service(mini(), o);
  const auto first = service.submit(completion(document(40), 400), "", "a").front();
  ASSERT_TRUE(first->answer->next(milliseconds(20000)));
  const auto second = service.submit(completion(document(1000), 1), "", "b").front();
  int meanwhile = 0;
  while (!second->answer->finished()) {
    if (first->answer->next(milliseconds(1))) ++meanwhile;
    if (second->answer->next(milliseconds(1))) continue;
  }
  EXPECT_GT(meanwhile, 5);
  first->answer->give_up();
  collect(*first->answer);
}

TEST(Batches, ReadShortPromptsWhileALongOneIsRead) {
  Service service(mini(), options());
  const auto lengthy = service.submit(completion(document(4000), 1), "", "a").front();
  while (service.metrics().waiting > 0) std::this_thread::sleep_for(milliseconds(1));
  const auto brief = service.submit(completion("The number of Oslo is", 1), "", "b").front();
  collect(*brief->answer);
  EXPECT_FALSE(lengthy->answer->finished());
  collect(*lengthy->answer);
}

TEST(Batches, EndWhereTheClientLeaves) {
  Service service(mini(), options());
  const auto job = service.submit(completion(document(40), 4000), "", "a").front();
  ASSERT_TRUE(job->answer->next(milliseconds(20000)));
  job->answer->give_up();
  EXPECT_LT(collect(*job->answer).usage.completion_tokens, 4000);
  EXPECT_EQ(service.metrics().cancelled, 1);
}

TEST(Batches, TakeNoMoreThanTheyHaveRoomFor) {
  auto o = options();
  o.batcher.kv_memory = 2 << 20;
  o.batcher.queue = 1;
  Service service(mini(), o);
  EXPECT_EQ(status_of([&] { ask(service, completion("x", 8000)); }), 400);        // never fits
  EXPECT_EQ(status_of([&] { ask(service, completion(document(20000))); }), 400);  // nor in the context
  const auto running = service.submit(completion("x", 500), "", "a").front();
  while (service.metrics().waiting > 0) std::this_thread::sleep_for(milliseconds(1));
  const auto waiting = service.submit(completion("y", 500), "", "b").front();
  EXPECT_EQ(status_of([&] { service.submit(completion("z", 500), "", "c"); }), 429);
  EXPECT_EQ(collect(*running->answer).usage.completion_tokens, 500);
  EXPECT_EQ(collect(*waiting->answer).usage.completion_tokens, 500);
}

TEST(Batches, GiveSeveralChoicesAndLogprobs) {
  Service service(mini(), options());
  auto request = completion(document(40) + "The number of Oslo is", 5);
  request.choices = 3;
  request.top_logprobs = 2;
  request.generate.sampling.temperature = 1.5f;
  request.generate.sampling.seed = 7;
  std::array<std::string, 3> texts;
  const auto job = service.submit(request, "", "a").front();
  int tokens = 0;
  while (!job->answer->finished())
    if (const auto delta = job->answer->next(milliseconds(100))) {
      texts[static_cast<size_t>(delta->choice)] += delta->text;
      for (const auto& token : delta->logprobs) {
        ++tokens;
        EXPECT_LE(token.logprob, 0);
        ASSERT_EQ(token.top.size(), 2U);
        EXPECT_GE(token.top[0].second, token.top[1].second);
        EXPECT_GE(token.top[0].second, token.logprob);
      }
    }
  EXPECT_EQ(tokens, 15);
  EXPECT_GT(std::set<std::string>(texts.begin(), texts.end()).size(), 1U);
  EXPECT_EQ(job->answer->usage().completion_tokens, 15);
}

std::vector<fs::path> prefix_files(const std::string& folder) {
  std::vector<fs::path> files;
  for (const auto& file : fs::directory_iterator(folder))
    if (file.path().extension() == ".wkv") files.push_back(file.path());
  return files;
}

TEST(Prefixes, ServeLaterPromptsOfTheirOwner) {
  Service service(mini(), options());
  const auto text = document(600);
  const auto first = ask(service, completion(text + "The number of Oslo is"), "ann");
  EXPECT_EQ(first.usage.cached_tokens, 0);
  const auto second = ask(service, completion(text + "The number of Prague is"), "ann");
  EXPECT_GT(second.usage.cached_tokens, second.usage.prompt_tokens * 8 / 10);
  EXPECT_EQ(ask(service, completion(text + "The number of Prague is"), "bob").usage.cached_tokens, 0);
  EXPECT_EQ(service.prefixes().list("ann").size(), 2U);
  EXPECT_EQ(service.prefixes().list("bob").size(), 1U);
  // A prompt that goes on takes the place of its beginning.
  ask(service, completion(text + "The number of Prague is 1234. And so on, and so on."), "ann");
  EXPECT_EQ(service.prefixes().list("ann").size(), 2U);
  // A few tokens in common hold no long text in memory once that is deleted.
  ask(service, completion("Hi"), "ann");
  for (const auto* owner : {"ann", "bob"})
    for (const auto& prefix : service.prefixes().list(owner))
      if (prefix.tokens > 32) {
        EXPECT_TRUE(service.prefixes().remove(owner, prefix.id));
      }
  ASSERT_EQ(service.prefixes().list("ann").size(), 1U);
  EXPECT_EQ(service.prefixes().memory_bytes(), service.prefixes().list("ann").front().bytes);
}

TEST(Prefixes, LeaveTheMemoryForTheFolderAndComeBack) {
  auto o = options();
  o.prefixes.folder = test::temp_path("prefixes");
  o.prefixes.disk = 64 << 20;
  const auto text = document(400);
  std::string expected;
  {
    Service service(mini(), o);
    expected = ask(service, completion(text + "The number of Oslo is")).text;
  }
  ASSERT_EQ(prefix_files(o.prefixes.folder).size(), 1U);
  {
    Service service(mini(), o);  // a restart
    const auto again = ask(service, completion(text + "The number of Oslo is"));
    EXPECT_GT(again.usage.cached_tokens, 0);
    EXPECT_EQ(again.text, expected);
    const auto all = service.prefixes().list("");
    ASSERT_EQ(all.size(), 1U);
    EXPECT_TRUE(all[0].on_disk);
    EXPECT_FALSE(all[0].in_memory);
    EXPECT_FALSE(service.prefixes().remove("bob", all[0].id));
    EXPECT_TRUE(service.prefixes().remove("", all[0].id));
    EXPECT_TRUE(prefix_files(o.prefixes.folder).empty());
  }
  // Little memory: each prompt pushes the one before it out.
  o.prefixes.memory = 2 << 20;
  Service service(mini(), o);
  for (int i = 0; i < 4; ++i) ask(service, completion(document(500, 10 + i)));
  EXPECT_LE(service.prefixes().memory_bytes(), o.prefixes.memory);
  EXPECT_GT(service.prefixes().disk_bytes(), 0);
  EXPECT_EQ(service.prefixes().list("").size(), 4U);
}

TEST(Prefixes, AreNotTakenFromFilesThatAreDamaged) {
  auto o = options();
  o.prefixes.folder = test::temp_path("damaged");
  o.prefixes.disk = 64 << 20;
  { ask(*std::make_unique<Service>(mini(), o), completion(document(300))); }
  const auto path = prefix_files(o.prefixes.folder).at(0);
  fs::resize_file(path, fs::file_size(path) / 2);
  int warnings = 0;
  o.prefixes.warning = [&](const std::string&) { ++warnings; };
  Service service(mini(), o);
  EXPECT_EQ(warnings, 1);
  EXPECT_TRUE(service.prefixes().list("").empty());
}

/// httplib's client looks up addresses in a thread of glibc's, of which ThreadSanitizer knows nothing.
#ifdef __SANITIZE_THREAD__
constexpr bool kNoClients = true;
#else
constexpr bool kNoClients = false;
#endif

class HttpServers : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kNoClients) GTEST_SKIP() << "not under ThreadSanitizer";
  }
};

TEST(Batches, EndWhereAGrammarAllowsNothing) {
  auto o = options();
  Service service(mini(), o);
  auto request = completion("x", 5);
  request.own_grammar = true;
  request.generate.min_tokens = 4;
  request.generate.ignore_end = false;
  request.generate.sampling.grammar = "root ::= \"a\"";  // which ends sooner
  const auto job = service.submit(request, "", "a").front();
  EXPECT_EQ(status_of([&] { collect(*job->answer); }), 400);
  EXPECT_EQ(ask(service, completion("x", 3)).usage.completion_tokens, 3);
  o.grammars = false;
  Service careful(mini(), o);
  EXPECT_EQ(status_of([&] { careful.submit(request, "", "a"); }), 400);
}

TEST(Prefixes, AreInAFolderOfOneServer) {
  auto o = options();
  o.prefixes.folder = test::temp_path("one");
  const Service first(mini(), o);
  EXPECT_THROW(Service(mini(), o), Error);
}

// Of a model with recurrent layers, whose prompts go on from snapshots.
TEST(Prefixes, HoldStatesOfRecurrentLayers) {
  const auto model = Model::load(test::recurrent_chat_path());
  auto o = options();
  o.policy = [](const KvRequest& kv, const std::string&, Task&) -> std::shared_ptr<const Policy> {
    return make_policy("snapkv", {Budget::parse(kv.budget.value_or("12%:64")), {}});
  };
  const auto text = document(600);
  const auto first = completion(text + "The number of Oslo is", 6);
  const auto second = completion(text + "And that of Madrid, the capital of Spain, is", 6);
  const auto third =
      completion(text +
                     "Of Prague, which lies on a river that flows into another, and then on to the sea "
                     "behind Hamburg, the number was told before: it is",
                 6);
  std::vector<Collected> alone;
  {
    auto none = o;
    none.batcher.stores = false;
    Service service(*model, none);
    for (const auto& request : {first, second, third}) alone.push_back(ask(service, request));
  }
  o.prefixes.store.types = {};  // as the caches
  o.prefixes.folder = test::temp_path("recurrent_prefixes");
  o.prefixes.disk = 64 << 20;
  o.prefixes.warning = [](const std::string& line) { ADD_FAILURE() << line; };
  std::vector<int64_t> cached;
  {
    Service service(*model, o);
    size_t i = 0;
    for (const auto& request : {first, second, third}) {
      const auto got = ask(service, request);
      EXPECT_EQ(got.text, alone[i++].text);
      cached.push_back(got.usage.cached_tokens);
      EXPECT_GT(got.usage.stored_bytes, model->hparams().full_rows(got.usage.prompt_tokens) *
                                                model->hparams().kv_layer_bytes_per_token() +
                                            model->hparams().state_bytes());
    }
    const auto stored = ask(service, third).usage.stored_bytes;
    EXPECT_GE(service.prefixes().memory_bytes(), stored);
  }
  const auto tokens = alone.front().usage.prompt_tokens;
  EXPECT_EQ(cached[0], 0);
  EXPECT_GE(cached[1], tokens - 160);  // the place 128 before the first one's end, or that of its question
  EXPECT_GE(cached[2], tokens - 40);   // where the first two parted
  // What was written serves after a restart.
  Service service(*model, o);
  const auto again = ask(service, second);
  EXPECT_EQ(again.text, alone[1].text);
  EXPECT_EQ(again.usage.cached_tokens, alone[1].usage.prompt_tokens - 32);
}

/// A server on a free port.
class Http {
 public:
  explicit Http(HttpOptions http_options = {}, bool loaded = true, ServiceOptions service_options = options())
      : service_(mini(), std::move(service_options)),
        http_(with_any_port(std::move(http_options))),
        port_(http_.bind()),
        thread_([this] { http_.listen(); }) {
    if (loaded) http_.set_service(&service_);
  }
  ~Http() {
    http_.stop();
    thread_.join();
  }
  httplib::Client client() const {
    httplib::Client c("127.0.0.1", port_);
    c.set_read_timeout(60);
    return c;
  }
  Service& service() { return service_; }
  void stop() { http_.stop(); }

 private:
  static HttpOptions with_any_port(HttpOptions o) {
    o.port = 0;
    return o;
  }
  Service service_;
  HttpServer http_;
  int port_;
  std::thread thread_;
};

Json post(httplib::Client client, const std::string& path, const Json& body, int status = 200,
          const httplib::Headers& headers = {}) {
  const auto response = client.Post(path, headers, body.is_string() ? body.get<std::string>() : body.dump(),
                                    "application/json");
  EXPECT_TRUE(response);
  if (!response) return {};
  EXPECT_EQ(response->status, status) << response->body;
  return Json::parse(response->body);
}

TEST_F(HttpServers, TellStreamsWhatEndsThem) {
  Http http;
  std::thread end([&] {
    while (http.service().batcher().slots().empty())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    http.service().batcher().drain(std::chrono::milliseconds(0));
    http.stop();
  });
  const Json body{{"prompt", "One"}, {"max_tokens", 4000}, {"ignore_eos", true}, {"stream", true}};
  const auto stream = http.client().Post("/v1/completions", body.dump(), "application/json");
  end.join();
  ASSERT_TRUE(stream);
  EXPECT_NE(stream->body.find("the server is shutting down"), std::string::npos) << stream->body;
}

TEST_F(HttpServers, AnswersInOpenAisShape) {
  Http http;
  const auto chat =
      post(http.client(), "/v1/chat/completions",
           {{"messages", {{{"role", "user"}, {"content", "Hi"}}}}, {"max_tokens", 3}, {"model", "mini"}});
  EXPECT_EQ(chat["object"], "chat.completion");
  EXPECT_EQ(chat["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(chat["usage"]["completion_tokens"],
            chat["choices"][0]["finish_reason"] == "length" ? Json(3) : chat["usage"]["completion_tokens"]);
  const auto text = post(
      http.client(), "/v1/completions",
      {{"prompt", {"one two", "three four"}}, {"max_tokens", 2}, {"echo", true}, {"logprobs", 1}, {"n", 2}});
  ASSERT_EQ(text["choices"].size(), 4U);
  EXPECT_TRUE(text["choices"][2]["text"].get<std::string>().starts_with("three four"));
  EXPECT_TRUE(text["choices"][0]["logprobs"]["token_logprobs"][0].is_null());
  EXPECT_LT(text["choices"][0]["logprobs"]["token_logprobs"][1], 0);
  // Offsets are places in the text, in which the mark of the beginning is not.
  const auto& scored = text["choices"][0];
  for (size_t i = 1; i < scored["logprobs"]["tokens"].size(); ++i) {
    const auto token = scored["logprobs"]["tokens"][i].get<std::string>();
    const size_t offset = scored["logprobs"]["text_offset"][i];
    EXPECT_EQ(scored["text"].get<std::string>().substr(offset, token.size()), token) << i;
  }
  const auto models = Json::parse(http.client().Get("/v1/models")->body);
  EXPECT_EQ(models["data"][0]["id"], "mini");
  const auto kept =
      post(http.client(), "/v1/completions",
           {{"prompt", document(300)}, {"max_tokens", 1}, {"kv", {{"budget", 64}, {"show_kept", true}}}});
  EXPECT_EQ(kept["usage"]["kv"]["kept_tokens"], 64);
  std::string whole;
  for (const auto& piece : kept["usage"]["kv"]["kept_text"]) whole += piece[0].get<std::string>();
  EXPECT_NE(whole.find("The number of Oslo"), std::string::npos);
}

TEST_F(HttpServers, TakesBodiesAsCurlSendsThem) {
  Http http;
  const auto body = Json{{"prompt", document(2000)}, {"max_tokens", 1}}.dump();
  EXPECT_EQ(http.client().Post("/v1/completions", body, "application/x-www-form-urlencoded")->status, 200);
  const auto parts = http.client().Post(
      "/v1/completions", "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n--x--\r\n",
      "multipart/form-data; boundary=x");
  EXPECT_EQ(parts->status, 415);
}

// The template opens the reasoning, which this model never closes.
TEST_F(HttpServers, TellReasoningApart) {
  auto service = options();
  service.chat_template =
      "{% for m in messages %}{{ m.content }}{% if m.reasoning_content %}<{{ m.reasoning_content }}>{% endif "
      "%}"
      "{% endfor %}{% if enable_thinking %}<think>\n{% endif %}";
  Http http({}, true, service);
  Json body{{"messages", {{{"role", "user"}, {"content", "One two three"}}}},
            {"max_tokens", 4},
            {"ignore_eos", true}};
  const char* path = "/v1/chat/completions";
  const auto apart = post(http.client(), path, body)["choices"][0]["message"];
  EXPECT_EQ(apart["content"], "");
  const auto thought = apart["reasoning_content"].get<std::string>();
  EXPECT_FALSE(thought.empty());
  body["stream"] = true;
  const auto stream = http.client().Post(path, body.dump(), "application/json");
  ASSERT_TRUE(stream);
  std::string streamed;
  for (size_t at = 0; (at = stream->body.find("data: {", at)) != std::string::npos; ++at) {
    const auto event = Json::parse(stream->body.substr(at + 6, stream->body.find('\n', at) - at - 6));
    const auto& delta = event["choices"][0]["delta"];
    streamed += delta.value("reasoning_content", "");
    EXPECT_TRUE(!delta.contains("content") || delta["content"].is_null() || delta["content"] == "") << delta;
  }
  EXPECT_EQ(streamed, thought);
  body["stream"] = false;
  const auto item = post(http.client(), "/v1/responses",
                         {{"input", "One two three"}, {"max_output_tokens", 4}})["output"][0];
  EXPECT_EQ(item["type"], "reasoning");
  for (const auto& [name, value] : {std::pair<const char*, Json>{"reasoning_format", "none"},
                                    {"chat_template_kwargs", {{"enable_thinking", false}}}}) {
    auto other = body;
    other[name] = value;
    const auto message = post(http.client(), path, other)["choices"][0]["message"];
    EXPECT_FALSE(message.contains("reasoning_content")) << name;
    EXPECT_NE(message["content"], "") << name;
  }
  body["messages"].push_back({{"role", "assistant"}, {"content", "Four"}, {"reasoning_content", "Hm"}});
  EXPECT_EQ(post(http.client(), "/apply-template", body)["prompt"], "One two threeFour<Hm><think>\n");
  body["reasoning_format"] = "loud";
  EXPECT_EQ(post(http.client(), path, body, 400)["error"]["param"], "reasoning_format");
  body["reasoning_format"] = "auto";
  for (const Json& refused : {Json("x"), Json{{"messages", Json::array()}}}) {
    body["chat_template_kwargs"] = refused;
    EXPECT_EQ(post(http.client(), path, body, 400)["error"]["param"], "chat_template_kwargs");
  }
}

TEST_F(HttpServers, StreamsEvents) {
  Http http;
  const auto response = http.client().Post("/v1/completions",
                                           Json{{"prompt", "one two"},
                                                {"max_tokens", 4},
                                                {"stream", true},
                                                {"stream_options", {{"include_usage", true}}},
                                                {"ignore_eos", true}}
                                               .dump(),
                                           "application/json");
  ASSERT_TRUE(response);
  EXPECT_EQ(response->get_header_value("Content-Type"), "text/event-stream");
  int events = 0;
  Json last;
  for (size_t at = 0; (at = response->body.find("data: ", at)) != std::string::npos; ++events) {
    const auto end = response->body.find("\n\n", at);
    const auto data = response->body.substr(at + 6, end - at - 6);
    if (data != "[DONE]") last = Json::parse(data);
    at = end;
  }
  EXPECT_TRUE(response->body.ends_with("data: [DONE]\n\n"));
  EXPECT_GE(events, 4);
  EXPECT_EQ(last["usage"]["completion_tokens"], 4);
}

TEST_F(HttpServers, RefusesWhatItCannotServe) {
  HttpOptions o;
  o.api_keys = {"right", "other"};
  o.most_body = 100000;
  Http http(o);
  const httplib::Headers key{{"Authorization", "Bearer right"}};
  EXPECT_EQ(post(http.client(), "/v1/completions", {{"prompt", "x"}}, 401)["error"]["code"],
            "invalid_api_key");
  EXPECT_EQ(post(http.client(), "/v1/completions", {{"prompt", "x"}}, 401,
                 {{"Authorization", "Bearer righ"}})["error"]["type"],
            "authentication_error");
  EXPECT_EQ(http.client().Get("/health")->status, 200);
  post(http.client(), "/v1/completions", {{"prompt", "x"}, {"max_tokens", 1}}, 200, key);
  post(http.client(), "/v1/completions", Json("{\"prompt\""), 400, key);
  post(http.client(), "/v1/completions", {{"prompt", "x"}, {"model", "gpt-9"}}, 404, key);
  post(http.client(), "/v1/completions", {{"prompt", document(60000)}}, 413, key);
  post(http.client(), "/v1/completions", {{"prompt", "x"}, {"grammar", "root ::= ("}}, 400, key);
  post(http.client(), "/v1/completions",
       {{"prompt", "x"}, {"grammar", "root ::= " + std::string(50000, '(')}}, 400, key);
  post(http.client(), "/v1/completions", {{"prompt", "x"}, {"kv", {{"policy", "magic"}}}}, 400, key);
  post(http.client(), "/v1/nothing", Json::object(), 404, key);
  post(http.client(), "/tokenize", {{"content", 1}}, 400, key);
  post(http.client(), "/detokenize", {{"tokens", {1, 99999999}}}, 400, key);
  EXPECT_EQ(http.client().Get("/v1/prefixes/..%2f..%2fetc", key)->status, 404);
  Http loading({}, /*loaded=*/false);
  EXPECT_EQ(loading.client().Get("/health")->status, 503);
}

TEST_F(HttpServers, DescribesAllThatItServes) {
  Http http({}, /*loaded=*/false);
  const auto description = Json::parse(http.client().Get("/openapi.json")->body);
  std::set<std::string> described, served;
  for (const auto& [path, item] : description["paths"].items()) {
    const auto& methods = item.contains("$ref")
                              ? description.at(Json::json_pointer(item["$ref"].get<std::string>().substr(1)))
                              : item;
    for (const auto& [method, operation] : methods.items()) described.insert(method + " " + path);
  }
  const HttpServer server{HttpOptions{}};
  for (const auto& route : server.routes()) {
    auto method = route.method;
    for (auto& c : method) c = static_cast<char>(std::tolower(c));
    served.insert(method + " " + route.path);
  }
  EXPECT_EQ(described, served);
  const auto wrong = http.client().Get("/v1/completions");
  EXPECT_EQ(wrong->status, 405);
  EXPECT_EQ(wrong->get_header_value("Allow"), "POST");
  EXPECT_EQ(http.client().Put("/v1/models", "", "text/plain")->status, 405);
}

TEST_F(HttpServers, SendsWholeAnswersWhateverRangeIsAskedFor) {
  Http http;
  const auto body = Json{{"prompt", "x"}, {"max_tokens", 1}}.dump();
  const auto response =
      http.client().Post("/v1/completions", {{"Range", "bytes=0-9"}}, body, "application/json");
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(Json::parse(response->body)["object"], "text_completion");
}

TEST_F(HttpServers, NamesTheFieldsOfItsEndpoint) {
  Http http;
  const auto param = [&](const Json& more) {
    Json body{{"input", "x"}};
    body.update(more);
    const auto error = post(http.client(), "/v1/responses", body, 400)["error"];
    EXPECT_NE(error["message"].get<std::string>().find(error["param"].get<std::string>()), std::string::npos)
        << error;
    return error["param"];
  };
  EXPECT_EQ(param({{"max_output_tokens", "x"}}), "max_output_tokens");
  EXPECT_EQ(param({{"input", {{{"role", "boss"}}}}}), "input");
  EXPECT_EQ(param({{"text", {{"format", {{"type", "x"}}}}}}), "text.format");
  EXPECT_EQ(param({{"n", 2}}), "n");
}

TEST_F(HttpServers, ShowsKeysTheirOwnSlots) {
  HttpOptions o;
  o.api_keys = {"ann", "bob"};
  o.isolate_keys = true;
  Http http(o);
  const auto slots = [&](const char* key) {
    return Json::parse(http.client().Get("/slots", {{"X-Api-Key", key}})->body).size();
  };
  std::thread asking([&] {
    post(http.client(), "/v1/completions", {{"prompt", "x"}, {"max_tokens", 500}, {"ignore_eos", true}}, 200,
         {{"X-Api-Key", "ann"}});
  });
  while (http.service().batcher().slots().empty()) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(slots("bob"), 0U);
  EXPECT_EQ(slots("ann"), 1U);
  asking.join();
}

TEST_F(HttpServers, ReadsPdfFilesWherePdftotextIs) {
  Http http;
  auto client = http.client();
  const auto read = [&](const std::string& file, int status) {
    const auto response = client.Post("/pdf-text", file, "application/pdf");
    EXPECT_TRUE(response);
    EXPECT_EQ(response->status, status) << response->body;
    return Json::parse(response->body);
  };
  const std::string text = "BT /F1 12 Tf 72 720 Td (Words of a page) Tj ET";
  const auto pdf = [](const std::string& page) {
    return "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
           "2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
           "3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R"
           "/Resources<</Font<</F1 5 0 R>>>>>>endobj\n"
           "4 0 obj<</Length " +
           std::to_string(page.size()) + ">>stream\n" + page +
           "\nendstream endobj\n5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\n"
           "trailer<</Root 1 0 R>>\n%%EOF\n";
  };
  const bool reads = Json::parse(client.Get("/props")->body)["reads_pdf"].get<bool>();
  if (!reads) {
    EXPECT_NE(read(pdf(text), 501)["error"]["message"].get<std::string>().find("pdftotext"),
              std::string::npos);
    GTEST_SKIP() << "no pdftotext here";
  }
  EXPECT_EQ(read(pdf(text), 200)["text"].get<std::string>().substr(0, 15), "Words of a page");
  EXPECT_EQ(read("no PDF", 400)["error"]["message"], "the body is not a PDF file");
  EXPECT_EQ(read("", 400)["error"]["message"], "the body is not a PDF file");
  EXPECT_EQ(read("%PDF-1.4 and then nothing", 400)["error"]["message"],
            "reading the PDF file fails (is it damaged, or does it need a password?)");
  EXPECT_EQ(read(pdf(""), 400)["error"]["message"], "the PDF file has no text: its pages are pictures");
}

TEST_F(HttpServers, KeepsTextOfUsersText) {
  Http http;
  const auto ids = post(http.client(), "/tokenize", {{"content", "a b"}, {"with_pieces", true}})["tokens"];
  ASSERT_GT(ids.size(), 0U);
  std::string text;
  for (const auto& token : ids) text += token["piece"].get<std::string>();
  EXPECT_EQ(text, "a b");
  const auto prompt =
      post(http.client(), "/apply-template", {{"messages", {{{"role", "user"}, {"content", "Hi"}}}}});
  EXPECT_NE(prompt["prompt"].get<std::string>().find("Hi"), std::string::npos);
}

}  // namespace
}  // namespace windowkv::server
