// windowkv rpc-server: lends this machine's devices to a windowkv, or llama.cpp, elsewhere.
#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "backend/backend.h"
#include "backend/rpc.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

struct ServerFlags {
  std::string host = "127.0.0.1";
  int port = 50052;
  int threads = 0;
  std::string device = "auto";
  bool cache = false;
};

/// Where weights that clients send are kept, as $XDG_CACHE_HOME has it.
std::string cache_folder() {
  const char* base = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if ((base == nullptr || *base == '\0') && home == nullptr)
    throw Error("--cache needs HOME or XDG_CACHE_HOME to be set");
  const auto folder = (base != nullptr && *base != '\0' ? std::filesystem::path(base)
                                                        : std::filesystem::path(home) / ".cache") /
                      "windowkv" / "rpc";
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw Error(fmt::format("{}: cannot create the folder: {}", folder.string(), error.message()));
  return folder.string() + "/";
}

void end(int) {
  _exit(0);
}

void serve(const ServerFlags& flags) {
  const auto cache = flags.cache ? cache_folder() : "";
  const Backends backends(flags.device, flags.threads, /*blas=*/false);
  std::vector<ggml_backend_dev_t> devices;
  for (size_t d = 0; d < backends.device_count(); ++d) devices.push_back(backends.device(d));
  const auto address = fmt::format("{}:{}", flags.host, flags.port == 0 ? free_port(flags.host) : flags.port);
  check_can_serve_rpc(address);
  warn(
      "anyone who can reach this port can use this machine's memory and may take over the server; never "
      "expose it to an open network");
  // Nothing is lost when it ends: what clients have here lives as long as their connection.
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, end);
  std::signal(SIGPIPE, SIG_IGN);  // a client that has gone is no reason to end
  print_ggml_log();
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // its own lines at once, into a log too
  serve_rpc(address, cache, backends.threads(), devices);
}

}  // namespace

void add_rpc_server(CLI::App& app) {
  auto flags = std::make_shared<ServerFlags>();
  auto* command =
      app.add_subcommand("rpc-server", "Serve this machine's devices to windowkv on another machine");
  command->footer(
      "Serves one client at a time, until Ctrl-C. Anyone who connects can use it, and nothing is\n"
      "encrypted: use it only on a network where you trust everyone. Both sides need the same version of\n"
      "ggml.\n"
      "Examples, on two servers and on a third machine that uses them:\n"
      "  windowkv rpc-server -H 192.168.1.2\n"
      "  windowkv rpc-server -H 192.168.1.3 --cache\n"
      "  windowkv run -m model.gguf --rpc 192.168.1.2:50052,192.168.1.3:50052 -f book.txt -p \"Summarize the "
      "book.\"");
  command->add_option("-H,--host", flags->host, "address to listen on; 0.0.0.0: all of this machine's")
      ->capture_default_str();
  command->add_option("-p,--port", flags->port, "port to listen on; 0: any free one, printed as the endpoint")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command->add_option("-t,--threads", flags->threads, "CPU threads; 0: one per core")
      ->check(CLI::Range(0, 512))
      ->capture_default_str();
  command
      ->add_option(
          "--device", flags->device,
          "devices to serve: auto (the GPUs that ggml finds, or else the CPU), or names such as CUDA0,cpu")
      ->capture_default_str();
  command->add_flag("-c,--cache", flags->cache,
                    "store large weights (over 10 MiB) from clients in the user's cache folder, so that a "
                    "model is sent only once");
  command->callback([flags] { serve(*flags); });
}

}  // namespace windowkv::cli
