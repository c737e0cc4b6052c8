#include "backend/rpc.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ggml-rpc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <thread>

#include "backend/backend.h"
#include "support/clock.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

constexpr const char* kStartServer = "ggml_backend_rpc_start_server";
constexpr auto kAnswerTime = std::chrono::seconds(4);
constexpr auto kListenTime = std::chrono::milliseconds(500);

/// A function of ggml's RPC backend.
template <typename F>
F* rpc_function(const char* name) {
  load_backends();
  auto* reg = ggml_backend_reg_by_name("RPC");
  if (reg == nullptr)
    throw Error("ggml's RPC backend is not installed; on Debian: apt install libggml0-backend-rpc");
  auto* function = reinterpret_cast<F*>(ggml_backend_reg_get_proc_address(reg, name));
  if (function == nullptr)
    throw Error(fmt::format("ggml's RPC backend has no {}; install one of ggml's own version", name));
  return function;
}

struct Address {
  std::string host;
  int port;
};

Address parse(const std::string& text) {
  const size_t colon = text.rfind(':');
  Address address{text.substr(0, colon), 0};
  if (colon != std::string::npos) {
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, address.port);
    if (error != std::errc{} || stop != end) address.port = 0;
  }
  if (address.host.empty() || address.host.find(':') != std::string::npos || address.port < 1 ||
      address.port > 65535)
    throw Error(fmt::format("RPC server \"{}\": not host:port, such as 192.168.1.2:50052", text));
  return address;
}

/// The host's IPv4 address, which is all that ggml's RPC speaks.
sockaddr_in resolve(const Address& address) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(address.host.c_str(), nullptr, &hints, &found); error != 0)
    throw Error(fmt::format("host {}: {}", address.host, gai_strerror(error)));
  sockaddr_in result{};
  std::memcpy(&result, found->ai_addr, sizeof result);
  freeaddrinfo(found);
  result.sin_port = htons(static_cast<uint16_t>(address.port));
  return result;
}

/// A TCP connection whose every wait ends at one time.
class Connection {
 public:
  Connection(const Address& address, Clock::duration patience) : end_(Clock::now() + patience) {
    const auto target = resolve(address);
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (connect(fd_, reinterpret_cast<const sockaddr*>(&target), sizeof target) == 0) return;
    error_ = errno;
    if (error_ != EINPROGRESS) return;
    socklen_t size = sizeof error_;
    if (!wait(POLLOUT))
      error_ = ETIMEDOUT;
    else
      getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error_, &size);
  }
  ~Connection() {
    if (fd_ >= 0) close(fd_);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// errno of the attempt to connect; 0: connected.
  int error() const { return error_; }

  bool send(std::span<const uint8_t> bytes) const {
    return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }

  enum class Got { kAll, kClosed, kNothing };
  Got receive(std::span<uint8_t> bytes) {
    for (size_t done = 0; done < bytes.size();) {
      if (!wait(POLLIN)) return Got::kNothing;
      const ssize_t n = recv(fd_, bytes.data() + done, bytes.size() - done, 0);
      if (n <= 0) return Got::kClosed;
      done += static_cast<size_t>(n);
    }
    return Got::kAll;
  }

 private:
  bool wait(short what) const {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end_ - Clock::now()).count();
    pollfd ready{fd_, what, 0};
    return left > 0 && poll(&ready, 1, static_cast<int>(left)) > 0;
  }

  Clock::time_point end_;
  int fd_ = -1;
  int error_ = 0;
};

/// Says HELLO as ggml's client will (ggml-rpc.cpp: command 14, the request's length, 24 bytes of
/// capabilities; the answer's length, three numbers of the protocol's version). ggml's own attempt would end
/// the process where it fails, and wait for ever at a server that is busy: it serves one client at a time.
void check_answer(const std::string& text) {
  Connection connection(parse(text), kAnswerTime);
  if (connection.error() != 0)
    throw Error(fmt::format("RPC server {}: {}; start one there with windowkv rpc-server", text,
                            std::strerror(connection.error())));
  std::array<uint8_t, 1 + 8 + 24> hello{};
  hello[0] = 14;
  hello[1] = 24;
  std::array<uint8_t, 8> length{};
  std::vector<uint8_t> version(3);
  auto got = connection.send(hello) ? connection.receive(length) : Connection::Got::kClosed;
  if (got == Connection::Got::kAll) {
    // All of it, that the server need not complain of one who left in the middle; as long as what is known.
    version.resize(std::clamp<size_t>(length[0], 3, 64));
    got = connection.receive(version);
  }
  if (got == Connection::Got::kNothing)
    throw Error(fmt::format(
        "RPC server {}: no answer; it serves one client at a time and may be busy with another", text));
  if (got == Connection::Got::kClosed)
    throw Error(fmt::format(
        "RPC server {}: it closed the connection; it is not a ggml RPC server, or one of another version",
        text));
  if (version[0] != RPC_PROTO_MAJOR_VERSION || version[1] > RPC_PROTO_MINOR_VERSION)
    throw Error(
        fmt::format("RPC server {}: it speaks protocol version {}.{}.{}, this ggml {}.{}.{}; use the "
                    "same ggml version on both",
                    text, version[0], version[1], version[2], RPC_PROTO_MAJOR_VERSION,
                    RPC_PROTO_MINOR_VERSION, RPC_PROTO_PATCH_VERSION));
}

std::mutex in_use_mutex;
std::map<std::string, std::weak_ptr<const std::string>> in_use;

/// The address where this process uses it already, else null.
std::shared_ptr<const std::string> known_address(const std::string& text) {
  std::scoped_lock lock(in_use_mutex);
  const auto found = in_use.find(text);
  return found == in_use.end() ? nullptr : found->second.lock();
}

std::shared_ptr<const std::string> mark_in_use(const std::string& text) {
  auto address = std::make_shared<const std::string>(text);
  std::scoped_lock lock(in_use_mutex);
  in_use[text] = address;
  return address;
}

/// A listening socket's place, tried: ggml's server only says that it failed.
int bound_port(const std::string& host, int port) {
  auto place = resolve({host, port});
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  socklen_t size = sizeof place;
  int error = 0;
  if (bind(fd, reinterpret_cast<const sockaddr*>(&place), sizeof place) != 0 || listen(fd, 1) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&place), &size) != 0)
    error = errno;
  close(fd);
  if (error != 0) throw Error(fmt::format("cannot listen at {}:{}: {}", host, port, std::strerror(error)));
  return ntohs(place.sin_port);
}

}  // namespace

RpcServers connect_rpc(std::span<const std::string> addresses) {
  RpcServers servers;
  if (addresses.empty()) return servers;
  auto* add_server = rpc_function<decltype(ggml_backend_rpc_add_server)>("ggml_backend_rpc_add_server");
  for (const auto& text : addresses)
    if (!known_address(text)) check_answer(text);
  for (const auto& text : addresses) {
    auto address = known_address(text);
    auto* reg = add_server(text.c_str());
    if (reg == nullptr) throw Error(fmt::format("RPC server {}: it has no device", text));
    for (size_t i = 0; i < ggml_backend_reg_dev_count(reg); ++i) {
      auto* device = ggml_backend_reg_dev_get(reg, i);
      for (auto* other : servers.devices)
        if (other == device) throw Error(fmt::format("RPC server {} is listed twice", text));
      servers.devices.push_back(device);
    }
    servers.addresses.push_back(address ? address : mark_in_use(text));
  }
  return servers;
}

void keep_rpc_alive(const RpcServers& servers) {
  std::error_code ignored;
  for (const auto& text : servers.addresses) {
    const auto server = resolve(parse(*text));
    // ggml keeps its sockets to itself.
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", ignored)) {
      const int fd = std::stoi(entry.path().filename().string());
      sockaddr_in peer{};
      socklen_t size = sizeof peer;
      if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0 || peer.sin_family != AF_INET ||
          peer.sin_addr.s_addr != server.sin_addr.s_addr || peer.sin_port != server.sin_port)
        continue;
      const struct {
        int level, option, value;
      } settings[] = {{SOL_SOCKET, SO_KEEPALIVE, 1},
                      {IPPROTO_TCP, TCP_KEEPIDLE, 10},
                      {IPPROTO_TCP, TCP_KEEPINTVL, 5},
                      {IPPROTO_TCP, TCP_KEEPCNT, 3}};
      for (const auto& [level, option, value] : settings) setsockopt(fd, level, option, &value, sizeof value);
    }
  }
}

std::vector<std::string> lost_rpc_servers() {
  std::vector<std::string> all;
  {
    std::scoped_lock lock(in_use_mutex);
    for (const auto& [text, address] : in_use)
      if (!address.expired()) all.push_back(text);
  }
  // A process that ends closes its connections before the socket it listens at.
  for (const auto end = Clock::now() + kListenTime; Clock::now() < end;) {
    std::vector<std::string> lost;
    for (const auto& text : all)
      if (Connection(parse(text), kListenTime).error() != 0) lost.push_back(text);
    if (!lost.empty()) return lost;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return all;
}

void check_can_serve_rpc(const std::string& address) {
  rpc_function<decltype(ggml_backend_rpc_start_server)>(kStartServer);
  const auto [host, port] = parse(address);
  bound_port(host, port);
}

void serve_rpc(const std::string& address, const std::string& cache_dir, int threads,
               std::span<const ggml_backend_dev_t> devices) {
  auto* start = rpc_function<decltype(ggml_backend_rpc_start_server)>(kStartServer);
  std::vector<ggml_backend_dev_t> list(devices.begin(), devices.end());
  const GgmlErrors errors;
  start(address.c_str(), cache_dir.empty() ? nullptr : cache_dir.c_str(), static_cast<size_t>(threads),
        list.size(), list.data());
  throw Error(fmt::format("the RPC server at {} stopped{}", address, errors.in_brackets()));
}

int free_port(const std::string& host) {
  return bound_port(host, 0);
}

}  // namespace windowkv
