#pragma once

#include <ggml-backend.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

/// ggml's RPC backend: devices of other machines. Found when the program runs, so that nothing is needed
/// where it is not used.
namespace windowkv {

/// Servers in use; held as long as their devices are.
struct RpcServers {
  std::vector<ggml_backend_dev_t> devices;  ///< of all servers, in their order
  std::vector<std::shared_ptr<const std::string>> addresses;
};

/// Connects to servers given as "host:port". Throws Error, within a few seconds, where the backend is not
/// installed, nothing answers, a server is busy with another client, or it speaks another protocol version.
/// Later ggml ends the process where a server is lost (ggml_set_abort_callback).
RpcServers connect_rpc(std::span<const std::string> addresses);

/// Has the system ask, while nothing is sent, whether the servers' machines are there, so that one that
/// vanished is lost within half a minute. For once their backends are started: ggml sets no time limits.
void keep_rpc_alive(const RpcServers& servers);

/// Of the servers in use, those at whose address nothing listens any more; all, where something does at each.
std::vector<std::string> lost_rpc_servers();

/// Throws Error where the backend is not installed or the address, "host:port", cannot be had.
void check_can_serve_rpc(const std::string& address);

/// Serves devices to one client after another; does not return. `cache_dir`: where weights a client sends are
/// kept for the next time, "" for nowhere. Throws Error as check_can_serve_rpc, in fewer words.
[[noreturn]] void serve_rpc(const std::string& address, const std::string& cache_dir, int threads,
                            std::span<const ggml_backend_dev_t> devices);

/// A port of the host that nothing listens at, chosen by the system. Throws Error where the host is not this
/// machine.
int free_port(const std::string& host);

}  // namespace windowkv
