#include "cli/lost_server.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ggml.h>
#include <unistd.h>

#include <cstdio>
#include <mutex>
#include <string>
#include <string_view>

#include "backend/rpc.h"
#include "cli/output.h"
#include "support/file.h"

namespace windowkv::cli {

namespace {

std::string explain(std::string_view message) {
  if (message.find("RPC") == std::string_view::npos)
    return fmt::format("ggml stopped: {}", message.substr(0, message.find('\n')));
  return fmt::format(
      "lost RPC server {}: it stopped, or sent an invalid reply; restart it and repeat the "
      "command",
      fmt::join(lost_rpc_servers(), " or "));
}

void on_abort(const char* message) {
  // Several threads may each have lost theirs; the first speaks, the others wait for the end.
  static std::mutex speaking;
  speaking.lock();
  const char* start = isatty(STDERR_FILENO) != 0 ? "\r\x1b[K" : "";  // over a line of progress
  tell(fmt::format("{}windowkv: {}\n", start, explain(message)));
  remove_unfinished_files();
  std::fflush(nullptr);
  _exit(1);
}

}  // namespace

void end_when_server_is_lost() {
  ggml_set_abort_callback(on_abort);
}

}  // namespace windowkv::cli
