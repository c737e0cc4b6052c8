#include "hub/http.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <exception>
#include <string_view>

#include "windowkv/error.h"

namespace windowkv::hub {

namespace {

constexpr size_t kMostText = size_t{64} << 20;
constexpr size_t kMostErrorText = size_t{64} << 10;
constexpr long kMostRedirections = 10;

struct Free {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

/// The value of a header line that has this name (in small letters).
std::string header_value(std::string_view line, std::string_view name) {
  if (line.size() <= name.size() || line[name.size()] != ':') return "";
  for (size_t i = 0; i < name.size(); ++i)
    if (std::tolower(static_cast<unsigned char>(line[i])) != name[i]) return "";
  line.remove_prefix(name.size() + 1);
  const auto from = line.find_first_not_of(" \t\"");
  const auto to = line.find_last_not_of(" \t\r\n\"");
  return from == std::string_view::npos ? "" : std::string(line.substr(from, to - from + 1));
}

/// One transfer: what libcurl's callbacks work on. They are C, so that what is thrown in them waits here.
struct Transfer {
  CURL* curl;
  const Reader* reader;  // null: text
  const std::function<bool()>* cancelled;
  Response response;
  bool begun = false;
  std::exception_ptr thrown;

  /// Whether the transfer goes on.
  template <typename Work>
  bool guarded(Work&& work) {
    try {
      work();
      return true;
    } catch (...) {
      thrown = std::current_exception();
      return false;
    }
  }

  void header(std::string_view line) {
    if (auto sum = header_value(line, "x-linked-etag"); sum.size() == 64) response.linked_sha256 = sum;
    // "bytes 5-9/10"
    if (const auto range = header_value(line, "content-range"); range.starts_with("bytes "))
      response.range_start = std::strtoll(range.c_str() + 6, nullptr, 10);
  }

  void begin() {
    begun = true;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &response.status);
    const char* type = nullptr;
    curl_easy_getinfo(curl, CURLINFO_CONTENT_TYPE, &type);
    response.content_type = type == nullptr ? "" : type;
    if (to_reader()) reader->begin(response);
  }

  bool to_reader() const { return reader != nullptr && (response.status == 200 || response.status == 206); }

  void body(std::span<const uint8_t> bytes) {
    if (!begun) begin();
    if (to_reader()) {
      reader->data(bytes);
    } else if (response.status == 200 && response.body.size() + bytes.size() > kMostText) {
      throw Error("the hub's answer is too long");
    } else if (response.status == 200 || response.body.size() < kMostErrorText) {
      response.body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
  }
};

size_t on_header(char* data, size_t, size_t count, void* transfer) {
  auto& t = *static_cast<Transfer*>(transfer);
  return t.guarded([&] { t.header({data, count}); }) ? count : 0;
}

size_t on_body(char* data, size_t, size_t count, void* transfer) {
  auto& t = *static_cast<Transfer*>(transfer);
  return t.guarded([&] { t.body({reinterpret_cast<const uint8_t*>(data), count}); }) ? count : 0;
}

int on_progress(void* transfer, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& t = *static_cast<Transfer*>(transfer);
  return t.guarded([&] {
    if (*t.cancelled && (*t.cancelled)()) throw Cancelled();
  })
             ? 0
             : 1;
}

}  // namespace

struct Http::State {
  std::unique_ptr<CURL, Free> curl;
  std::unique_ptr<curl_slist, Free> headers;
  std::function<bool()> cancelled;

  Response run(const std::string& url, int64_t offset, const Reader* reader);
};

Http::Http(const std::string& token, std::function<bool()> cancelled) : state_(std::make_unique<State>()) {
  static const auto started = curl_global_init(CURL_GLOBAL_DEFAULT);
  state_->curl.reset(curl_easy_init());
  if (started != CURLE_OK || state_->curl == nullptr) throw Error("libcurl cannot be used");
  state_->cancelled = std::move(cancelled);
  // libcurl leaves this header out for hosts, ports and protocols that it is redirected to.
  if (!token.empty())
    state_->headers.reset(curl_slist_append(nullptr, ("Authorization: Bearer " + token).c_str()));
}

Http::~Http() = default;

Response Http::State::run(const std::string& url, int64_t offset, const Reader* reader) {
  auto* c = curl.get();
  Transfer transfer{c, reader, &cancelled, {}, false, nullptr};
  char message[CURL_ERROR_SIZE] = "";
  const auto range = fmt::format("{}-", offset);
  const char* protocols = url.starts_with("https:") ? "https" : "http,https";

  curl_easy_reset(c);
  curl_easy_setopt(c, CURLOPT_URL, url.c_str());
  curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, protocols);
  curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, protocols);
  curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(c, CURLOPT_MAXREDIRS, kMostRedirections);
  curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(c, CURLOPT_USERAGENT, "windowkv/" WINDOWKV_VERSION);
  if (offset > 0) curl_easy_setopt(c, CURLOPT_RANGE, range.c_str());
  curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, 20L);
  // A transfer that stands still for 30 s.
  curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, 30L);
  curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(c, CURLOPT_HEADERDATA, &transfer);
  curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
  curl_easy_setopt(c, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl_easy_setopt(c, CURLOPT_XFERINFODATA, &transfer);
  curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(c, CURLOPT_ERRORBUFFER, message);

  const auto code = curl_easy_perform(c);
  if (transfer.thrown) std::rethrow_exception(transfer.thrown);
  if (code != CURLE_OK) {
    transfer.response.failure = *message == '\0' ? curl_easy_strerror(code) : message;
  } else if (!transfer.begun) {
    transfer.begin();  // an answer without a body
  }
  return std::move(transfer.response);
}

Response Http::get(const std::string& url) {
  return state_->run(url, 0, nullptr);
}

Response Http::get(const std::string& url, int64_t offset, const Reader& reader) {
  return state_->run(url, offset, &reader);
}

std::string url_path(const std::string& path) {
  std::string out;
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (byte < 128 && std::isalnum(byte) != 0) ||
                       std::string_view("-._~/").find(c) != std::string_view::npos;
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", byte);
  }
  return out;
}

}  // namespace windowkv::hub
