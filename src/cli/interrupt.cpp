#include "cli/interrupt.h"

#include <atomic>
#include <csignal>

#include "support/file.h"

namespace windowkv::cli {

namespace {

std::atomic<int> caught = 0;

void on_signal(int signal) {
  if (int none = 0; caught.compare_exchange_strong(none, signal)) return;
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
  int signal = SIGINT;
  caught.compare_exchange_strong(signal, 0);
}

int interrupted_exit() {
  return 128 + (caught != 0 ? caught.load() : SIGINT);
}

}  // namespace windowkv::cli
