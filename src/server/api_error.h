#pragma once

#include <stdexcept>
#include <string>

namespace windowkv::server {

/// What a client is told where a request cannot be served, in the shape of OpenAI's errors.
struct ApiError : std::runtime_error {
  ApiError(int http_status, const std::string& message, std::string parameter = "",
           std::string error_code = "")
      : std::runtime_error(message),
        status(http_status),
        param(std::move(parameter)),
        code(std::move(error_code)) {}

  int status;
  std::string param;    ///< the field that is wrong; empty: none
  std::string code;     ///< such as "context_length_exceeded"; empty: none
  int retry_after = 0;  ///< seconds, for 429 and 503
};

/// Too much is asked for at the moment.
inline ApiError busy(const std::string& message) {
  ApiError error(429, message, "", "queue_full");
  error.retry_after = 1;
  return error;
}

}  // namespace windowkv::server
