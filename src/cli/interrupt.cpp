#include "cli/interrupt.h"

#include <atomic>
#include <csignal>
#include <cstdint>
#include <ctime>

#include "support/file.h"

namespace windowkv::cli {

namespace {

std::atomic<int> caught = 0;
std::atomic<int64_t> caught_at = 0;

/// timeout(1) and terminals may send a signal to a process and to its group: within this time it is one.
constexpr int64_t kSameNs = 200'000'000;

int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void on_signal(int signal) {
  const auto now = now_ns();
  int64_t first = 0;
  if (caught_at.compare_exchange_strong(first, now)) {
    caught = signal;
    return;
  }
  if (now - first < kSameNs) return;
  remove_unfinished_files();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace

void catch_interrupts() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
  if (std::signal(SIGHUP, on_signal) == SIG_IGN) std::signal(SIGHUP, SIG_IGN);  // as nohup wants it
  std::signal(SIGPIPE, SIG_IGN);
}

bool interrupted() {
  return caught != 0;
}

void forget_interrupt() {
  if (int signal = SIGINT; caught.compare_exchange_strong(signal, 0)) caught_at = 0;
}

int interrupted_exit() {
  return 128 + (caught != 0 ? caught.load() : SIGINT);
}

}  // namespace windowkv::cli
