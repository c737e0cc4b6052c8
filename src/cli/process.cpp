#include "cli/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <string_view>

#include "cli/interrupt.h"
#include "windowkv/error.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): not every libc's headers have it

namespace windowkv::cli {

namespace {

struct FileCloser {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, FileCloser>;

std::string last_line(std::FILE* file) {
  std::rewind(file);
  std::string text;
  std::array<char, 4096> buffer;
  for (size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), file)) > 0;) text.append(buffer.data(), n);
  std::string last;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    if (line.find_first_not_of(" \t\r") != std::string::npos) last = line;
  return last;
}

int wait_for(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

}  // namespace

void require_program(const std::string& name, const std::string& hint) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');)
    if (access(folder.append("/").append(name).c_str(), X_OK) == 0) return;
  throw Error(fmt::format("{} is not on PATH; {}", name, hint));
}

std::string run_program(const std::vector<std::string>& arguments) {
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const auto& word : arguments) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const File errors(std::tmpfile());
  std::array<int, 2> ends{};
  if (!errors || pipe2(ends.data(), O_CLOEXEC) != 0)
    throw Error(fmt::format("cannot start {}: {}", arguments[0], std::strerror(errno)));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, fileno(errors.get()), STDERR_FILENO);
  pid_t child = 0;
  const int failure = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  const File out(fdopen(ends[0], "r"));
  if (failure != 0) throw Error(fmt::format("cannot start {}: {}", arguments[0], std::strerror(failure)));

  std::string text;
  std::array<char, 4096> buffer;
  for (;;) {
    pollfd ready{ends[0], POLLIN, 0};
    if (poll(&ready, 1, 200) > 0) {
      const ssize_t n = read(ends[0], buffer.data(), buffer.size());
      if (n == 0 || (n < 0 && errno != EINTR)) break;
      if (n > 0) text.append(buffer.data(), static_cast<size_t>(n));
    }
    if (interrupted()) {
      kill(child, SIGTERM);
      wait_for(child);
      throw Cancelled();
    }
  }
  const int status = wait_for(child);
  if (interrupted()) throw Cancelled();
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw Error(fmt::format("{} failed: {}", arguments[0], last_line(errors.get())));
  return text;
}

}  // namespace windowkv::cli
