// windowkv serve: many conversations at once, over HTTP.
#include <fmt/format.h>
#include <malloc.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "backend/free_memory.h"
#include "cli/commands.h"
#include "cli/generate_flags.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/store_flags.h"
#include "cli/warm_up.h"
#include "server/http_server.h"
#include "support/clock.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

/// Of an answer whose request names no limit.
constexpr int64_t kAnswerTokens = 4096;

/// Left to itself glibc learns from large buffers that are given back to keep ever larger ones, in an arena
/// for every few connections: memory that grows for thousands of requests.
void keep_memory_flat() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
  mallopt(M_ARENA_MAX, 2);
#endif
}

/// What lives long, such as stored prefixes' tokens, lies between what does not: after thousands of requests
/// a few percent of the memory are pages that nothing uses.
void give_pages_back() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

struct ServeFlags {
  ModelFlags model;
  PolicyFlags policy;
  PromptFlags prompt;
  GenerateFlags generate;
  server::HttpOptions http;
  std::string key_file;
  std::vector<std::string> aliases;
  int parallel = 32;
  int queue = 512;
  int64_t kv_memory = 0;
  int64_t store_memory = 0;
  int64_t store_disk = int64_t{16} << 30;
  std::string store_type = "auto";
  int store_snapshots = PrefixStoreOptions().snapshots;
  std::string store_folder;
  bool no_store = false;
  bool allow_grammars = false;
  double max_stall_ms = 250;
  int drain_seconds = 30;
  std::string chat_template, template_variables;
  std::string reasoning_format = "auto";
};

/// Accepts 8G, 512M and plain bytes.
CLI::Option* add_bytes(CLI::App& group, const std::string& name, int64_t& bytes, const std::string& help) {
  const CLI::AsSizeValue units(/*kb_is_1000=*/false);
  return group.add_option(name, bytes, help)
      ->transform(with_message(units, "give a number of bytes, as in 1000000, 512M or 8G"))
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 60).description(""))
      ->type_name("BYTES");
}

void add_keys_of_file(ServeFlags& flags) {
  if (std::ranges::count(flags.http.api_keys, "") > 0)
    throw Error("--api-key is empty; leave it out where no key is needed");
  if (flags.key_file.empty()) return;
  std::ifstream file(flags.key_file);
  if (!file) throw Error(flags.key_file + ": cannot open");
  for (std::string line; std::getline(file, line);) {
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back())) != 0) line.pop_back();
    if (!line.empty() && line.front() != '#') flags.http.api_keys.push_back(line);
  }
  if (flags.http.api_keys.empty()) throw Error(flags.key_file + ": has no key in it");
}

bool is_local(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

/// Bytes that are free where the caches lie, on the fullest device.
int64_t free_for_caches(const Model& model, const EngineOptions& options, const Policy& policy) {
  const Engine engine(model, options);
  int64_t least = INT64_MAX;
  for (const auto& device : engine.plan_devices(1, policy))
    if (device.available >= 0) least = std::min(least, device.available);
  return least != INT64_MAX ? least : int64_t{8} << 30;
}

server::ServiceOptions service_options(const ServeFlags& flags, const Model& model) {
  server::ServiceOptions o;
  const auto& policy = flags.policy;
  const auto task_choice = flags.policy.task.choice();
  const bool stores = !flags.no_store;
  o.policy = [policy, task_choice, stores, &model](const server::KvRequest& kv, const std::string& text,
                                                   Task& task) -> std::shared_ptr<const Policy> {
    auto wanted = policy;
    wanted.kv = kv.policy.value_or(wanted.kv);
    wanted.budget = kv.budget.value_or(wanted.budget);
    if (kv.policy && !kv.recall && wanted.recall != "auto" && !policy_recalls(wanted.kv))
      wanted.recall = "off";
    wanted.recall = kv.recall.value_or(wanted.recall);
    wanted.total = kv.total.value_or(wanted.total);
    if (kv.policy == "full" && !kv.total) wanted.total = "off";
    if (!stores) wanted.recall = "off";
    wanted = wanted.for_model(model);
    if (kv.task && *kv.task != "auto") parse_task(*kv.task);
    const auto choice = kv.task ? task_choice.as(*kv.task) : task_choice;
    task = choice(kNeutralTask, text).task;
    return wanted.make(model.hparams(), task);
  };
  Task task{};
  const auto usual = o.policy({}, "", task);  // throws for flags that make none

  o.generate = flags.generate.options(/*escape=*/false);
  o.generate.cancelled = nullptr;
  o.context = flags.generate.context > 0 ? flags.generate.context : model.hparams().n_ctx_train;
  if (o.context > model.hparams().n_ctx_train)
    spdlog::warn("a context of {} tokens, but the model was trained for {}; answers beyond may be poor",
                 o.context, model.hparams().n_ctx_train);
  o.chat_template = flags.chat_template;
  o.template_variables = flags.template_variables;
  o.split_reasoning = server::parse_reasoning_format(flags.reasoning_format);
  o.model_names = flags.aliases;
  o.model_names.push_back(std::filesystem::path(model.path()).filename().string());

  o.grammars = flags.allow_grammars;
  o.batcher.engine = flags.model.engine();
  o.batcher.parallel = flags.parallel;
  o.batcher.queue = flags.queue;
  o.batcher.max_stall_ms = flags.max_stall_ms;
  o.batcher.stores = stores;
  o.batcher.on_finished = [answered = 0](const server::Job& job, const server::Usage& usage) mutable {
    spdlog::info("answered prompt={} cached={} answer={} kept={:.0f} prompt_ms={:.0f} answer_ms={:.0f} id={}",
                 usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.kept_tokens,
                 usage.prompt_ms, usage.decode_ms, job.id);
    constexpr int kOften = 256;  // it takes milliseconds
    if (++answered % kOften == 0) give_pages_back();
  };
  o.batcher.kv_memory =
      flags.kv_memory > 0 ? flags.kv_memory : free_for_caches(model, o.batcher.engine, *usual) / 2;

  constexpr int64_t kLeastTokens = 64;
  if (const int64_t least =
          kLeastTokens * model.hparams().n_layer * model.hparams().kv_layer_bytes_per_token();
      o.batcher.kv_memory < least)
    throw Error(fmt::format("--kv-memory {}: {} tokens of this model take {}",
                            bytes_text(o.batcher.kv_memory), kLeastTokens, bytes_text(least)));

  const auto type = store_type(model.hparams(), flags.store_type);
  o.prefixes.store.types = {type, type};
  o.prefixes.store.snapshots = flags.store_snapshots;
  const int64_t free = free_system_memory();
  o.prefixes.memory = flags.store_memory > 0 ? flags.store_memory : (free > 0 ? free : int64_t{8} << 30) / 4;
  o.prefixes.folder = stores ? flags.store_folder : "";
  o.prefixes.disk = flags.store_disk;
  o.prefixes.warning = [](const std::string& line) { spdlog::warn("{}", line); };
  return o;
}

void log_start(const ServeFlags& flags, const Model& model, const server::ServiceOptions& options) {
  spdlog::info("model {} on {}, context {}", options.model_names.front(), model.device_name(),
               options.context);
  spdlog::info("KV cache: {} at {}, up to {} for {} answers at once", flags.policy.kv, flags.policy.budget,
               bytes_text(options.batcher.kv_memory), flags.parallel);
  if (flags.no_store)
    spdlog::info("prefixes are not stored");
  else
    spdlog::info("stored prefixes: up to {} of memory, {}", bytes_text(options.prefixes.memory),
                 options.prefixes.folder.empty()
                     ? std::string("none on disk")
                     : fmt::format("{} in {}", bytes_text(options.prefixes.disk), options.prefixes.folder));
}

void serve(ServeFlags& flags) {
  catch_interrupts();
  spdlog::set_default_logger(spdlog::stderr_color_mt("windowkv"));
  spdlog::set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ %v");
  add_keys_of_file(flags);
  if (!is_local(flags.http.host) && flags.http.api_keys.empty())
    spdlog::warn("anyone who can reach {} can use this server; --api-key asks for a key", flags.http.host);
  if (flags.http.isolate_keys && flags.http.api_keys.empty())
    throw Error("--isolate-keys needs --api-key: without keys all requests look alike");
  flags.chat_template = flags.prompt.read_chat_template();
  flags.template_variables = flags.prompt.read_variables();
  flags.http.on_response = [](const std::string& id, const std::string& method, const std::string& path,
                              int status, double ms) {
    spdlog::info("{} {} status={} ms={:.0f} id={}", method, path, status, ms, id);
  };
  if (!flags.http.page_file.empty()) read_text_file(flags.http.page_file);  // throws where it cannot be
  if (flags.no_store && !flags.store_folder.empty()) spdlog::warn("--store-dir is not used with --no-store");
  if (flags.no_store && flags.policy.recall != "auto" && flags.policy.recall_every() > 0)
    spdlog::warn("--recall {} is not used: it needs a prefix store", flags.policy.recall);
  keep_memory_flat();
  flags.model.file();  // a download comes first

  server::HttpServer http(flags.http);
  const int port = http.bind();
  struct Listener {
    explicit Listener(server::HttpServer& server) : http(server), thread([&server] { server.listen(); }) {}
    ~Listener() { stop(); }
    void stop() {
      http.stop();
      if (thread.joinable()) thread.join();
    }
    server::HttpServer& http;
    std::thread thread;
  };
  std::unique_ptr<Model> model;
  std::unique_ptr<server::Service> service;
  Listener listener(http);
  spdlog::info("listening on http://{}:{}", flags.http.host, port);
  const auto start = Clock::now();
  model = flags.model.load();
  const auto options = service_options(flags, *model);
  log_start(flags, *model, options);
  warm_up(*model, flags.model);
  service = std::make_unique<server::Service>(*model, options);
  http.set_service(service.get());
  spdlog::info("ready after {:.1f} s", ms_since(start) / 1e3);

  while (!interrupted()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  spdlog::info("shutting down: answers under way have {} s", flags.drain_seconds);
  service->batcher().drain(std::chrono::seconds(flags.drain_seconds));
  listener.stop();
  http.set_service(nullptr);
  service.reset();  // writes what is not yet on disk
  spdlog::info("stopped");
}

void add_environment(CLI::App& app) {
  for (auto* option : app.get_options()) {
    if (option->get_lnames().empty()) continue;
    std::string name = "WINDOWKV_";
    for (const char c : option->get_lnames().front())
      name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    option->envname(name);
  }
  for (auto* group : app.get_subcommands(nullptr)) add_environment(*group);
}

}  // namespace

void add_serve(CLI::App& app) {
  auto flags = std::make_shared<ServeFlags>();
  flags->policy.recall = "auto";
  flags->generate.plain.max_tokens = kAnswerTokens;
  auto* command = app.add_subcommand("serve", "Serve many conversations over HTTP, for OpenAI's clients");
  command->footer(
      "Endpoints: /v1/chat/completions, /v1/responses, /v1/completions, /v1/models, /v1/prefixes, /health "
      "and "
      "more\n"
      "(docs/server.md). A request's \"kv\" object chooses policy, budget, task, recall and\n"
      "total for itself. Each\n"
      "option can also be set by an environment variable: WINDOWKV_PORT for --port.\n"
      "\n"
      "Examples:\n"
      "  windowkv serve -m model.gguf\n"
      "  windowkv serve -m model.gguf --host 0.0.0.0 --api-key-file keys.txt --store-dir /var/lib/windowkv\n"
      "  curl localhost:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": "
      "\"Hi\"}]}'");
  flags->model.add_to(*command);
  auto* http = command->add_option_group("Server");
  http->add_option("--host", flags->http.host, "address to listen on; 0.0.0.0: all of the machine's")
      ->type_name("ADDRESS")
      ->capture_default_str();
  http->add_option("--port", flags->http.port, "port to listen on; 0: any that is free")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  http->add_option("--api-key", flags->http.api_keys,
                   "keys that requests may use; without one none is needed")
      ->delimiter(',')
      ->type_name("KEY,...");
  http->add_option("--api-key-file", flags->key_file,
                   "a file with one key a line; lines that begin with # are left out")
      ->type_name("FILE");
  http->add_flag("--isolate-keys", flags->http.isolate_keys,
                 "what is stored of a prompt serves the key alone that sent it");
  http->add_option("-a,--alias", flags->aliases, "names of the model in requests and answers")
      ->delimiter(',')
      ->type_name("NAME,...");
  http->add_flag("!--no-webui", flags->http.web_page, "no page to chat on under /");
  http->add_option("--web-page", flags->http.page_file,
                   "a page of your own, HTML, in place of the built-in one")
      ->type_name("FILE");
  http->add_option("--timeout", flags->http.read_timeout,
                   "seconds that a connection may be silent while it sends or takes")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
  http->add_option("--max-connections", flags->http.connections, "connections at once, one thread each")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  add_bytes(*http, "--max-body", flags->http.most_body, "largest body of a request (default: 16M)");
  http->add_option("--drain", flags->drain_seconds,
                   "seconds that answers under way get when the server is stopped")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();

  http->add_flag(
      "--allow-grammars", flags->allow_grammars,
      "let requests bring grammars (GBNF); one can be written that keeps the server busy for good");

  auto* load = command->add_option_group("Many at once");
  load->add_option("--parallel", flags->parallel, "answers under way at once; others wait")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  load->add_option("--queue", flags->queue, "requests that may wait; others are told to come back (429)")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  load->add_option("--max-stall-ms", flags->max_stall_ms,
                   "how long the reading of a prompt may keep answers under way from their next token")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  add_bytes(*load, "--kv-memory", flags->kv_memory,
            "most memory for KV caches, room for answers included (default: half of what is free)");

  auto* store = command->add_option_group("Prefix store");
  store->add_flag("--no-store", flags->no_store,
                  "do not keep what was read for prompts that begin with it, or for --recall");
  add_bytes(*store, "--store-memory", flags->store_memory,
            "most memory for stored prefixes (default: a quarter of what is free)");
  store
      ->add_option("--store-dir", flags->store_folder,
                   "folder for prefixes that have left the memory; a restart finds them there")
      ->type_name("FOLDER");
  add_bytes(*store, "--store-disk", flags->store_disk, "most bytes in that folder (default: 16G)");
  add_store_type(*store, flags->store_type);
  add_store_snapshots(*store, flags->store_snapshots);

  flags->policy.add_to(*command);
  flags->generate.add_to(*command);
  auto* chats = command->add_option_group("Chats");
  flags->prompt.add_template_to(*chats);
  chats
      ->add_option(
          "--reasoning-format", flags->reasoning_format,
          "what becomes of a model's reasoning: deepseek: it is reasoning_content, apart from the content; "
          "none: it is part of the content; auto: as deepseek")
      ->check(CLI::IsMember({"none", "deepseek", "auto"}).description(""))
      ->type_name("none|deepseek|auto")
      ->capture_default_str();
  add_environment(*command);
  command->callback([flags] { serve(*flags); });
}

}  // namespace windowkv::cli
