#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/service.h"

namespace httplib {
class Server;
struct Request;
struct Response;
}  // namespace httplib

namespace windowkv::server {

struct Completion;

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8080;                    ///< 0: any that is free
  std::vector<std::string> api_keys;  ///< one of them is needed; empty: none is
  bool isolate_keys = false;          ///< stored prefixes serve the key alone that they were made with
  bool web_page = true;               ///< whether / is a page to chat on
  std::string page_file;              ///< served in place of the built-in page; empty: that
  int connections = 256;              ///< at once
  int64_t most_body = 16 << 20;       ///< bytes
  int read_timeout = 30;              ///< seconds without a byte of a request, or room for one of a response
  /// Told of each request that was answered.
  std::function<void(const std::string& id, const std::string& method, const std::string& path, int status,
                     double ms)>
      on_response;
};

/// The service over HTTP, in OpenAI's and llama-server's words. docs/server.md lists the endpoints.
class HttpServer {
 public:
  explicit HttpServer(HttpOptions options);
  ~HttpServer();

  /// Throws Error where the port is taken. Returns it.
  int bind();
  /// Serves until stop() is called. Requests but /health wait for nothing: until there is a service they get
  /// 503.
  void listen();
  /// From now on requests are served. It must outlive listen().
  void set_service(Service* service) { service_ = service; }
  /// From any thread. Responses under way are finished.
  void stop();

  /// A method and a path, in which {NAME} stands for a part of it, as in openapi.json.
  struct Route {
    std::string method, path;
  };
  const std::vector<Route>& routes() const { return routes_; }

 private:
  using Handler = std::function<void(Service&, const httplib::Request&, httplib::Response&)>;

  void add_routes();
  void add_prefix_routes();
  void add_pages();
  /// Notes the route; returns the regular expression of its path.
  std::string add(const std::string& method, const std::string& path);
  /// Has failures answered as OpenAI does; 503 until there is a service.
  void get(const std::string& path, Handler handler);
  void post(const std::string& path, Handler handler);
  void remove(const std::string& path, Handler handler);
  /// Methods that the path of a request would take, as Allow has them.
  std::string allowed(const std::string& path) const;
  void guard(const Handler& handler, const httplib::Request& request, httplib::Response& response);
  void report(const std::string& id, const std::string& method, const std::string& path, int status,
              double ms) const;
  bool authorized(const httplib::Request& request, httplib::Response& response) const;
  std::string owner_of(const httplib::Request& request) const;
  void complete(Service& service, const httplib::Request& request, httplib::Response& response, bool chat);
  void create_response(Service& service, const httplib::Request& request, httplib::Response& response);
  void respond(Service& service, const httplib::Request& request, httplib::Response& response,
               Completion completion);

  HttpOptions options_;
  std::vector<Route> routes_;
  std::unique_ptr<httplib::Server> server_;
  std::atomic<Service*> service_ = nullptr;
  std::shared_ptr<const bool> streams_ = std::make_shared<bool>(true);  ///< each under way has a copy
};

}  // namespace windowkv::server
