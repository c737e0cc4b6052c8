#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace windowkv::hub {

/// The answer to one request, after its redirections.
struct Response {
  long status = 0;   ///< 0: none came
  std::string body;  ///< only where it was not handed on
  std::string content_type;
  std::string linked_sha256;  ///< of X-Linked-ETag, which the hub sends with a file's redirection
  int64_t range_start = 0;    ///< of Content-Range: where what was sent begins in the file
  std::string failure;        ///< what ended the transfer early, "" for nothing

  bool html() const { return content_type.starts_with("text/html"); }
};

/// Whoever reads a file as it arrives. All may throw, which ends the transfer and comes out of get().
struct Reader {
  std::function<void(const Response& start)> begin;  ///< the answer's head, of status 200 or 206
  std::function<void(std::span<const uint8_t> bytes)> data;
};

/// Requests to one server over one connection, whose token goes to no other host: neither over redirections
/// nor otherwise.
class Http {
 public:
  /// `token`: "" for none. `cancelled`: asked all the time; Cancelled is thrown once it says true.
  Http(const std::string& token, std::function<bool()> cancelled);
  ~Http();
  Http(const Http&) = delete;
  Http& operator=(const Http&) = delete;

  /// The whole answer, of 64 MiB at most.
  Response get(const std::string& url);
  /// From byte `offset` of the file on, to `reader`; answers of other statuses come back as text.
  Response get(const std::string& url, int64_t offset, const Reader& reader);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A path within a URL: everything but letters, digits, - . _ ~ and / in percent signs.
std::string url_path(const std::string& path);

}  // namespace windowkv::hub
