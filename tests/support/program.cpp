#include "support/program.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "support/files.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): not every libc's headers have it

namespace windowkv::test {

namespace {

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

Program::Program(const std::string& name, const std::vector<std::string>& arguments)
    : out_path_(temp_path(name + ".out")), err_path_(temp_path(name + ".err")) {
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const auto& word : arguments) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  for (auto [descriptor, path] : {std::pair{STDOUT_FILENO, &out_path_}, {STDERR_FILENO, &err_path_}})
    posix_spawn_file_actions_addopen(&actions, descriptor, path->c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int failure = posix_spawnp(&pid_, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failure != 0) throw std::runtime_error("cannot start " + arguments[0]);
}

Program::~Program() {
  if (code_) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Program::send(int signal) const {
  if (!code_) kill(pid_, signal);
}

std::optional<int> Program::wait(std::chrono::milliseconds patience) {
  eventually(
      [&] {
        int status = 0;
        if (!code_ && waitpid(pid_, &status, WNOHANG) == pid_)
          code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        return code_.has_value();
      },
      patience);
  return code_;
}

double Program::cpu_seconds() const {
  // Fields 14 and 15 of /proc/PID/stat (proc(5)); the second one, in parentheses, may hold spaces.
  const auto text = content("/proc/" + std::to_string(pid_) + "/stat");
  std::istringstream fields(text.substr(std::min(text.size(), text.rfind(')') + 1)));
  std::string skipped;
  for (int i = 3; i < 14; ++i) fields >> skipped;
  double user = 0;
  double system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

std::string Program::out() const {
  return content(out_path_);
}

std::string Program::err() const {
  return content(err_path_);
}

bool eventually(const std::function<bool()>& what, std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!what()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace windowkv::test
