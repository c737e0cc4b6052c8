#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "hub/http.h"
#include "windowkv/error.h"

namespace windowkv::hub {

/// The server cannot be reached, or does not give what is asked for; a copy from before may do.
class Unavailable : public Error {
 public:
  using Error::Error;
};

/// What a download asks for and tells on the way.
struct Listener {
  std::function<bool()> cancelled;
  std::function<void(int64_t done, int64_t total)> progress;  ///< bytes
  std::function<void(const std::string& line)> note;          ///< what the user should know
};

/// A GGUF on a server and where it goes.
struct Download {
  std::string url;
  std::filesystem::path to;
  std::string name;       ///< what messages call it
  std::string sha256;     ///< "": the one that the server tells, if any
  int64_t bytes = 0;      ///< 0: not known
  std::string no_access;  ///< what to say where the server wants a token, or another one
};

/// Brings the file to download.to, in a folder that is there. Until it is whole and right it lies beside it
/// under the name llama.cpp gives it, and stays there where the download ends early, so that the next one
/// goes on from it. Throws Unavailable for what the server does, Error for a full disk, other contents than
/// were told and an answer that is no GGUF, Cancelled.
void download(Http& http, const Download& download, const Listener& listener);

/// What a status means: "404 (not found)".
std::string status_text(const Response& response);

/// "98.4 MB".
std::string size_text(int64_t bytes);

}  // namespace windowkv::hub
