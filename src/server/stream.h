#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "server/job.h"
#include "server/response.h"
#include "server/service.h"

namespace httplib {
struct Request;
struct Response;
}  // namespace httplib

namespace windowkv::server {

inline constexpr const char* kJson = "application/json";
inline constexpr const char* kEvents = "text/event-stream";
/// The status of a request whose client left, for the log, as nginx has it.
inline constexpr int kClientLeft = 499;

/// Jobs of one request on their way to its client.
struct Completion {
  std::unique_ptr<ResponseFormat> format;
  CompletionRequest request;
  std::vector<std::shared_ptr<Job>> jobs;
};

/// Waits for all of it. Gives up where the client leaves. Throws ApiError where a job failed.
void respond_at_once(const Completion& completion, const Service& service, const httplib::Request& request,
                     httplib::Response& response);
/// Sends what comes as server-sent events.
/// `ended` is called once all of it was sent, or the client has left.
void respond_as_stream(Completion completion, const Service& service, httplib::Response& response,
                       std::function<void(bool whole)> ended);

}  // namespace windowkv::server
