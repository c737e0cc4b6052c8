#include "server/http_server.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <httplib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <thread>

#include "server/openapi.h"
#include "server/pdf_text.h"
#include "server/random_id.h"
#include "server/responses_format.h"
#include "server/responses_request.h"
#include "server/stream.h"
#include "server/web_page.h"
#include "support/clock.h"
#include "support/file.h"
#include "support/hash.h"
#include "support/utf8.h"
#include "windowkv/error.h"

namespace windowkv::server {

namespace {

constexpr const char* kBodyTooLarge = "the body is larger than the server takes";
constexpr const char* kPdfText = "/pdf-text";
constexpr const char* kRequestId = "X-Request-Id";
/// A request is handled by one thread from its headers to the end of its response.
thread_local Clock::time_point arrived;

/// For a line of the log, whatever the client sent.
std::string printable(std::string text) {
  constexpr size_t kLongest = 200;
  for (auto& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

/// Whether a request's id may be repeated in headers and logs.
bool is_plain(const std::string& id) {
  constexpr size_t kLongest = 128;
  return !id.empty() && id.size() <= kLongest && std::ranges::all_of(id, [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
  });
}

/// As long for equal keys as for keys that differ anywhere.
bool same_key(const std::string& given, const std::string& key) {
  unsigned differs = given.size() == key.size() ? 0 : 1;
  for (size_t i = 0; i < key.size(); ++i)
    differs |= static_cast<unsigned char>(key[i]) ^
               static_cast<unsigned char>(given.empty() ? 0 : given[i % given.size()]);
  return differs == 0;
}

std::string key_of(const httplib::Request& request) {
  constexpr std::string_view kBearer = "Bearer ";
  const auto header = request.get_header_value("Authorization");
  if (header.starts_with(kBearer)) return header.substr(kBearer.size());
  return request.get_header_value("X-Api-Key");
}

void answer(httplib::Response& response, const Json& json) {
  response.set_content(text_of(json), kJson);
}

void answer(httplib::Response& response, const ApiError& error) {
  response.status = error.status;
  if (error.retry_after > 0) response.set_header("Retry-After", std::to_string(error.retry_after));
  answer(response, error_json(error));
}

/// {NAME} as what it may be: ids of prefixes are digits, so that no path comes from outside; names of models
/// may have anything.
std::string pattern_of(const std::string& path) {
  std::string pattern;
  for (size_t i = 0; i < path.size(); ++i) {
    if (path[i] == '.') pattern += '\\';
    if (path[i] != '{') {
      pattern += path[i];
      continue;
    }
    const auto end = path.find('}', i);
    pattern += path.substr(i, end + 1 - i) == "{id}" ? "([^/]+)" : "(.+)";
    i = end;
  }
  return pattern;
}

int64_t seconds_now() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

const std::string& model_id(const Service& service) {
  return service.options().model_names.front();
}

Json model_json(const Service& service) {
  const auto& hp = service.model().hparams();
  return {{"id", model_id(service)},
          {"object", "model"},
          {"created", seconds_now()},
          {"owned_by", "windowkv"},
          {"meta",
           {{"n_vocab", hp.n_vocab},
            {"n_ctx_train", hp.n_ctx_train},
            {"n_ctx", service.options().context},
            {"n_embd", hp.n_embd},
            {"n_layer", hp.n_layer},
            {"size", service.model().weight_bytes()}}}};
}

void check_model(const Service& service, const std::string& name) {
  if (name.empty() || std::ranges::count(service.options().model_names, name) > 0) return;
  throw ApiError(404, fmt::format("there is no model \"{}\"; the server has \"{}\"", name, model_id(service)),
                 "model", "model_not_found");
}

std::vector<Token> tokens_of(const Json& body, int n_vocab) {
  const auto it = body.find("tokens");
  if (it == body.end() || !it->is_array())
    throw ApiError(400, "tokens must be an array of token ids", "tokens");
  std::vector<Token> tokens;
  for (const auto& id : *it) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= n_vocab)
      throw ApiError(400, fmt::format("tokens has something that is no id below {}", n_vocab), "tokens");
    tokens.push_back(id.get<Token>());
  }
  return tokens;
}

/// Text, or bytes where a token is a part of a character.
Json piece_json(const Vocab& vocab, Token token) {
  const auto piece = vocab.piece(token, /*special=*/true);
  return utf8_first_error(piece) == std::string::npos ? Json(piece) : bytes_json(piece);
}

void tokenize(Service& service, const httplib::Request& request, httplib::Response& response) {
  const auto body = parse_body(request.body);
  const auto& vocab = service.vocab();
  const auto text = required_text(body, "content");
  PromptText prompt{text, {}};
  if (!optional_flag(body, "parse_special", true)) prompt.literal = vocab.special_names(text);
  auto tokens = service.tokenize(prompt);
  if (!optional_flag(body, "add_special", false))
    tokens.erase(tokens.begin(), tokens.begin() + std::ssize(vocab.tokenize("")));
  auto list = Json::array();
  const bool pieces = optional_flag(body, "with_pieces", false);
  for (const auto token : tokens)
    list.push_back(pieces ? Json{{"id", token}, {"piece", piece_json(vocab, token)}} : Json(token));
  answer(response, Json{{"tokens", list}});
}

void detokenize(Service& service, const httplib::Request& request, httplib::Response& response) {
  const auto tokens = tokens_of(parse_body(request.body), service.model().hparams().n_vocab);
  answer(response, Json{{"content", service.vocab().text(tokens, /*special=*/true)}});
}

void apply_template(Service& service, const httplib::Request& request, httplib::Response& response) {
  const auto body = parse_body(request.body);
  answer(response,
         Json{{"prompt",
               service.chat_text(parse_messages(body), parse_tools(body), parse_variables(body)).text}});
}

void props(Service& service, const httplib::Request&, httplib::Response& response) {
  const auto& options = service.options();
  answer(response,
         Json{{"model_path", service.model().path()},
              {"model_alias", model_id(service)},
              {"total_slots", options.batcher.parallel},
              {"n_ctx", options.context},
              {"kv_memory", options.batcher.kv_memory},
              {"store_memory", options.prefixes.memory},
              {"store_dir", options.prefixes.folder.empty() ? Json() : Json(options.prefixes.folder)},
              {"device", service.model().device_name()},
              {"reads_pdf", reads_pdf()}});
}

}  // namespace

HttpServer::HttpServer(HttpOptions options)
    : options_(std::move(options)), server_(std::make_unique<httplib::Server>()) {
  auto& s = *server_;
  const auto most = static_cast<size_t>(options_.connections);
  s.new_task_queue = [most] { return new httplib::ThreadPool(std::min<size_t>(8, most), most, most); };
  s.set_payload_max_length(static_cast<size_t>(options_.most_body));
  s.set_read_timeout(options_.read_timeout, 0);
  s.set_write_timeout(options_.read_timeout, 0);
  s.set_keep_alive_max_count(1000);
  s.set_tcp_nodelay(true);
  // httplib's default would share the port with another server.
  s.set_socket_options([](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  s.set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
    auto id = request.get_header_value(kRequestId);
    if (!is_plain(id)) id = random_id();
    response.set_header(kRequestId, id);
    arrived = Clock::now();
    // Answers are no files. httplib would send parts of them, and offers no other way to leave that.
    const_cast<httplib::Request&>(request).ranges.clear();
    return authorized(request, response) ? httplib::Server::HandlerResponse::Unhandled
                                         : httplib::Server::HandlerResponse::Handled;
  });
  s.set_error_handler([this](const httplib::Request& request, httplib::Response& response) {
    if (!response.body.empty()) return httplib::Server::HandlerResponse::Handled;
    if (const auto methods = allowed(request.path);
        !methods.empty() && methods.find(request.method) == std::string::npos) {
      response.set_header("Allow", methods);
      answer(response, ApiError(405, fmt::format("{} is for {} alone", request.path, methods)));
      return httplib::Server::HandlerResponse::Handled;
    }
    const auto what = response.status == 404   ? fmt::format("{} {} is not an endpoint of this server",
                                                             request.method, request.path)
                      : response.status == 413 ? std::string(kBodyTooLarge)
                                               : fmt::format("HTTP status {}", response.status);
    response.set_content(text_of(error_json(ApiError(response.status, what))), kJson);
    return httplib::Server::HandlerResponse::Handled;
  });
  s.set_logger([this](const httplib::Request& request, const httplib::Response& response) {
    if (response.get_header_value("Content-Type") == kEvents && response.status == 200)
      return;  // told at its end
    report(response.get_header_value(kRequestId), request.method, request.path, response.status,
           ms_since(arrived));
  });
  add_routes();
  add_prefix_routes();
  add_pages();
}

HttpServer::~HttpServer() = default;

void HttpServer::report(const std::string& id, const std::string& method, const std::string& path, int status,
                        double ms) const {
  if (options_.on_response)
    options_.on_response(printable(id), printable(method), printable(path), status, ms);
}

bool HttpServer::authorized(const httplib::Request& request, httplib::Response& response) const {
  constexpr std::array kPublic = {"/health", "/v1/health", "/", "/index.html", "/openapi.json"};
  if (options_.api_keys.empty() || std::ranges::find(kPublic, request.path) != kPublic.end()) return true;
  const auto given = key_of(request);
  bool found = false;
  for (const auto& key : options_.api_keys) found = same_key(given, key) || found;
  if (!found) {
    answer(response, ApiError(401, "the API key is missing or wrong", "", "invalid_api_key"));
    response.set_header("WWW-Authenticate", "Bearer");
  }
  return found;
}

std::string HttpServer::owner_of(const httplib::Request& request) const {
  return options_.isolate_keys ? fnv1a64(key_of(request)) : "";
}

void HttpServer::guard(const Handler& handler, const httplib::Request& request, httplib::Response& response) {
  auto* service = service_.load();
  try {
    if (service == nullptr) {
      ApiError loading(503, "the model is being loaded", "", "loading_model");
      loading.retry_after = 2;
      throw loading;
    }
    handler(*service, request, response);
  } catch (const ApiError& e) {
    if (service != nullptr) ++service->metrics().refused;
    answer(response, e);
  } catch (const std::exception& e) {
    if (service != nullptr) ++service->metrics().refused;
    answer(response, ApiError(500, e.what()));
  }
}

std::string HttpServer::add(const std::string& method, const std::string& path) {
  routes_.push_back({method, path});
  return pattern_of(path);
}

std::string HttpServer::allowed(const std::string& path) const {
  std::set<std::string> methods;
  for (const auto& route : routes_)
    if (std::regex_match(path, std::regex(pattern_of(route.path)))) methods.insert(route.method);
  if (methods.contains("GET")) methods.insert("HEAD");
  return fmt::format("{}", fmt::join(methods, ", "));
}

void HttpServer::get(const std::string& path, Handler handler) {
  server_->Get(add("GET", path), [this, handler = std::move(handler)](const auto& request, auto& response) {
    guard(handler, request, response);
  });
}

void HttpServer::remove(const std::string& path, Handler handler) {
  server_->Delete(add("DELETE", path),
                  [this, handler = std::move(handler)](const auto& request, auto& response) {
                    guard(handler, request, response);
                  });
}

void HttpServer::post(const std::string& path, Handler handler) {
  // The body is read here, as httplib itself takes 8 KiB at most of what curl -d sends as a form.
  const char* expected = path == kPdfText ? "the file itself" : "JSON";
  server_->Post(add("POST", path), [this, expected, handler = std::move(handler)](
                                       const httplib::Request& request, httplib::Response& response,
                                       const httplib::ContentReader& read) {
    auto whole = request;
    // httplib has no reader of such a body as it is: it stays where it is, and the connection ends.
    const bool parts = request.is_multipart_form_data();
    if (parts) response.set_header("Connection", "close");
    const bool got = !parts && read([&](const char* data, size_t size) {
      whole.body.append(data, size);
      return true;
    });
    const auto body_then = [&](Service& service, const httplib::Request&, httplib::Response& out) {
      if (parts) throw ApiError(415, fmt::format("the body must be {}, not a form", expected));
      if (!got)
        throw ApiError(response.status == 413 ? 413 : 400,
                       response.status == 413 ? kBodyTooLarge : "the body did not arrive");
      handler(service, whole, out);
    };
    guard(body_then, request, response);
  });
}

void HttpServer::complete(Service& service, const httplib::Request& request, httplib::Response& response,
                          bool chat) {
  Completion completion;
  completion.request = service.parse(parse_body(request.body), chat);
  completion.format =
      std::make_unique<CompletionFormat>(ResponseHead{.chat = chat,
                                                      .id = (chat ? "chatcmpl-" : "cmpl-") + random_id(),
                                                      .model = model_id(service),
                                                      .created = seconds_now()},
                                         completion.request, service.vocab());
  respond(service, request, response, std::move(completion));
}

void HttpServer::create_response(Service& service, const httplib::Request& request,
                                 httplib::Response& response) {
  const auto body = parse_body(request.body);
  Completion completion;
  try {
    completion.request = service.parse(chat_body_of(body), /*chat=*/true);
  } catch (const ApiError& e) {
    throw in_words_of_responses(e);  // there is no format yet
  }
  completion.format = std::make_unique<ResponsesFormat>(
      ResponseHead{.chat = true, .id = random_id(), .model = model_id(service), .created = seconds_now()},
      body);
  respond(service, request, response, std::move(completion));
}

void HttpServer::respond(Service& service, const httplib::Request& request, httplib::Response& response,
                         Completion completion) {
  check_model(service, completion.request.model);
  try {
    completion.jobs =
        service.submit(completion.request, owner_of(request), response.get_header_value(kRequestId));
  } catch (const ApiError& e) {
    throw completion.format->in_its_words(e);
  }
  if (completion.request.stream)
    respond_as_stream(std::move(completion), service, response,
                      [this, id = response.get_header_value(kRequestId), method = request.method,
                       path = request.path, since = arrived, counted = streams_](bool whole) {
                        report(id, method, path, whole ? 200 : kClientLeft, ms_since(since));
                      });
  else
    respond_at_once(completion, service, request, response);
}

void HttpServer::add_routes() {
  for (const char* path : {"/health", "/v1/health"})
    get(path, [](Service& service, const httplib::Request&, httplib::Response& response) {
      if (service.batcher().draining()) throw ApiError(503, "the server is shutting down");
      answer(response, Json{{"status", "ok"}});
    });
  for (const char* path : {"/v1/models", "/models"})
    get(path, [](Service& service, const httplib::Request&, httplib::Response& response) {
      answer(response, Json{{"object", "list"}, {"data", Json::array({model_json(service)})}});
    });
  get("/v1/models/{model}",
      [](Service& service, const httplib::Request& request, httplib::Response& response) {
        check_model(service, request.matches[1].str());
        answer(response, model_json(service));
      });
  get("/metrics", [](Service& service, const httplib::Request&, httplib::Response& response) {
    response.set_content(
        service.metrics().text(service.prefixes().memory_bytes(), service.prefixes().disk_bytes()),
        "text/plain; version=0.0.4");
  });
  get("/props", props);
  get("/slots", [this](Service& service, const httplib::Request& request, httplib::Response& response) {
    auto list = Json::array();
    for (const auto& slot : service.batcher().slots())
      if (!options_.isolate_keys || slot.owner == owner_of(request))
        list.push_back({{"id", slot.id},
                        {"choice", slot.choice},
                        {"prompt_tokens", slot.prompt_tokens},
                        {"n_decoded", slot.generated},
                        {"n_predict", slot.most_tokens}});
    answer(response, list);
  });
  for (const char* path : {"/v1/responses", "/responses"})
    post(path, [this](Service& service, const httplib::Request& request, httplib::Response& response) {
      create_response(service, request, response);
    });
  for (const char* path : {"/v1/completions", "/completions"})
    post(path, [this](Service& service, const httplib::Request& request, httplib::Response& response) {
      complete(service, request, response, /*chat=*/false);
    });
  for (const char* path : {"/v1/chat/completions", "/chat/completions"})
    post(path, [this](Service& service, const httplib::Request& request, httplib::Response& response) {
      complete(service, request, response, /*chat=*/true);
    });
  post("/tokenize", tokenize);
  post("/detokenize", detokenize);
  post("/apply-template", apply_template);
  post(kPdfText, [](Service& service, const httplib::Request& request, httplib::Response& response) {
    const auto cancelled = [&] { return request.is_connection_closed() || service.batcher().draining(); };
    answer(response, Json{{"text", pdf_text(request.body, cancelled)}});
  });
}

void HttpServer::add_prefix_routes() {
  get("/v1/prefixes", [this](Service& service, const httplib::Request& request, httplib::Response& response) {
    auto list = Json::array();
    for (const auto& prefix : service.prefixes().list(owner_of(request)))
      list.push_back({{"id", prefix.id},
                      {"object", "prefix"},
                      {"tokens", prefix.tokens},
                      {"bytes", prefix.bytes},
                      {"in_memory", prefix.in_memory},
                      {"on_disk", prefix.on_disk},
                      {"pinned", prefix.pinned},
                      {"uses", prefix.uses},
                      {"idle_seconds", prefix.idle_seconds}});
    answer(response, Json{{"object", "list"}, {"data", list}});
  });
  const auto known = [](bool found, const std::string& id) {
    if (!found) throw ApiError(404, fmt::format("there is no prefix \"{}\"", id), "id", "prefix_not_found");
  };
  const auto change = [this, known](const std::string& what, const auto& work, const char* told, bool value) {
    post("/v1/prefixes/{id}/" + what,
         [this, known, work, told, value](Service& service, const httplib::Request& request,
                                          httplib::Response& response) {
           const auto id = request.matches[1].str();
           try {
             known(work(service.prefixes(), owner_of(request), id), id);
           } catch (const Error& e) {
             throw ApiError(service.options().prefixes.folder.empty() ? 400 : 500, e.what());
           }
           answer(response, Json{{"id", id}, {"object", "prefix"}, {told, value}});
         });
  };
  using Owner = const std::string&;
  change(
      "pin", [](PrefixCache& p, Owner owner, Owner id) { return p.pin(owner, id, true); }, "pinned", true);
  change(
      "unpin", [](PrefixCache& p, Owner owner, Owner id) { return p.pin(owner, id, false); }, "pinned",
      false);
  change(
      "save", [](PrefixCache& p, Owner owner, Owner id) { return p.save(owner, id); }, "saved", true);
  remove("/v1/prefixes/{id}",
         [this, known](Service& service, const httplib::Request& request, httplib::Response& response) {
           const auto id = request.matches[1].str();
           known(service.prefixes().remove(owner_of(request), id), id);
           answer(response, Json{{"id", id}, {"object", "prefix"}, {"deleted", true}});
         });
}

/// What is there before the model is.
void HttpServer::add_pages() {
  server_->Get(add("GET", "/openapi.json"), [](const httplib::Request&, httplib::Response& response) {
    response.set_content(std::string(builtin_openapi()), kJson);
  });
  if (options_.web_page)
    for (const char* path : {"/", "/index.html"})
      server_->Get(add("GET", path), [this](const httplib::Request&, httplib::Response& response) {
        response.set_header("Content-Security-Policy",
                            "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
                            "img-src data:; frame-ancestors 'none'");
        const auto page =
            options_.page_file.empty() ? std::string(builtin_web_page()) : read_text_file(options_.page_file);
        response.set_content(page, "text/html; charset=utf-8");
      });
}

int HttpServer::bind() {
  const auto where = fmt::format("{}:{}", options_.host, options_.port);
  if (options_.port == 0) {
    const int port = server_->bind_to_any_port(options_.host);
    if (port < 0) throw Error(where + ": cannot listen there");
    return port;
  }
  errno = 0;
  if (!server_->bind_to_port(options_.host, options_.port)) {
    const int reason = errno;
    const auto hint = reason == EADDRINUSE      ? "the port is taken; --port names another"
                      : reason == EACCES        ? "it takes privileges to listen on that port"
                      : reason == EADDRNOTAVAIL ? "that is no address of this machine"
                                                : "is --host a name or address of this machine?";
    throw Error(fmt::format("{}: cannot listen there: {}", where, hint));
  }
  return options_.port;
}

void HttpServer::listen() {
  server_->listen_after_bind();
}

void HttpServer::stop() {
  // Streams are cut off once the server stops: what ended them is told first.
  constexpr std::chrono::seconds kLastWords{2};
  for (const auto start = Clock::now(); streams_.use_count() > 1 && Clock::now() - start < kLastWords;)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  server_->stop();
}

}  // namespace windowkv::server
