#include "support/child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>

#include "support/clock.h"
#include "support/descriptor.h"
#include "windowkv/error.h"

namespace windowkv {

namespace {

enum class Outcome : uint64_t { kText, kThrown, kOutOfMemory };  // as wide as a size: no padding between

/// Before the bytes of a message, so that one that is cut off is known.
struct Header {
  uint64_t size = 0;
  Outcome outcome = Outcome::kText;
};

void write_all(int pipe, const void* data, size_t size) {
  for (const auto* at = static_cast<const char*>(data); size > 0;) {
    const ssize_t written = ::write(pipe, at, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) _exit(1);
    at += written;
    size -= static_cast<size_t>(written);
  }
}

/// Bytes of address space this process has; 0 where the system does not say.
size_t address_space() {
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return 0;
  size_t pages = 0;
  const bool known = std::fscanf(file, "%zu", &pages) == 1;
  std::fclose(file);
  return known ? pages * static_cast<size_t>(sysconf(_SC_PAGESIZE)) : 0;
}

void set_limit(int resource, rlim_t most) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource_t>(resource), &limit) != 0) return;
  limit.rlim_cur = std::min(limit.rlim_cur, most);
  setrlimit(static_cast<__rlimit_resource_t>(resource), &limit);
}

/// Ends the process after that time.
void set_timer(__itimer_which which, double seconds) {
  itimerval timer{};
  timer.it_value.tv_sec = static_cast<time_t>(seconds);
  timer.it_value.tv_usec = static_cast<suseconds_t>(1e6 * (seconds - std::floor(seconds)));
  setitimer(which, &timer, nullptr);
}

/// What a limit on the processor's time is multiplied with for the clock.
constexpr double kClockFactor = 12;

/// Nothing of the parent's ways to end, and the limits. `space`: bytes of address space; 0: any number.
void become_child(const ChildLimits& limits, size_t space) {
  for (const int number : {SIGALRM, SIGPROF, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTERM, SIGPIPE})
    std::signal(number, SIG_DFL);
  std::signal(SIGINT, SIG_IGN);  // Ctrl-C is the parent's to answer
  sigset_t alarms;
  sigemptyset(&alarms);
  sigaddset(&alarms, SIGALRM);
  sigaddset(&alarms, SIGPROF);
  sigprocmask(SIG_UNBLOCK, &alarms, nullptr);
  if (const int nowhere = open("/dev/null", O_WRONLY); nowhere >= 0) dup2(nowhere, STDERR_FILENO);
  set_limit(RLIMIT_CORE, 0);
  if (space > 0) set_limit(RLIMIT_AS, space);
  // Of the processor: on a busy machine work waits. The clock ends what waits for ever.
  set_timer(ITIMER_PROF, limits.seconds);
  set_timer(ITIMER_REAL, kClockFactor * limits.seconds);
}

[[noreturn]] void be_child(int pipe, const std::function<std::string()>& work) {
  Header header;
  std::string text;
  try {
    text = work();
  } catch (const std::bad_alloc&) {
    header.outcome = Outcome::kOutOfMemory;
  } catch (const std::exception& e) {
    text = e.what();
    // Libraries catch what memory gives and throw it on as an error of their own.
    const bool memory = text.starts_with("std::bad_alloc");
    header.outcome = memory ? Outcome::kOutOfMemory : Outcome::kThrown;
    if (memory) text.clear();
  }
  header.size = text.size();
  write_all(pipe, &header, sizeof header);
  write_all(pipe, text.data(), text.size());
  _exit(0);
}

/// Whether the child waits for something, as /proc tells. It has nothing to wait for but a lock that another
/// thread of the parent held at the fork, which nobody gives back in the copy.
bool sleeps(pid_t child) {
  std::FILE* file = std::fopen(fmt::format("/proc/{}/stat", child).c_str(), "r");
  if (file == nullptr) return false;
  std::array<char, 256> line{};
  const bool known = std::fgets(line.data(), line.size(), file) != nullptr;
  std::fclose(file);
  const char* name_end = known ? std::strrchr(line.data(), ')') : nullptr;
  return name_end != nullptr && name_end[1] == ' ' && name_end[2] == 'S';
}

/// False where the child sleeps for good before it writes anything.
bool await_first_bytes(int pipe, pid_t child) {
  constexpr int kMilliseconds = 100;
  constexpr int kOften = 3;
  pollfd readable{pipe, POLLIN, 0};
  for (int asleep = 0; asleep < kOften;) {
    const int ready = poll(&readable, 1, kMilliseconds);
    if (ready > 0 || (ready < 0 && errno != EINTR)) return true;
    asleep = sleeps(child) ? asleep + 1 : 0;
  }
  return false;
}

/// Whether all the bytes came.
bool read_all(int pipe, void* data, size_t size) {
  for (auto* at = static_cast<char*>(data); size > 0;) {
    const ssize_t got = ::read(pipe, at, size);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    size -= static_cast<size_t>(got);
  }
  return true;
}

/// How the child ended, as wait says; 0 where it does not.
int wait_for(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return 0;
  return status;
}

/// How a child ended, and what it wrote.
struct Result {
  Header header;
  std::string text;
  bool whole = false;
  int ended_by = 0;  ///< a signal
};

/// nullopt where the child waits for ever.
std::optional<Result> result_of(const std::string& what, const std::function<std::string()>& work,
                                const ChildLimits& limits) {
  std::array<int, 2> ends{};
  const size_t space = address_space();
  if (pipe2(ends.data(), O_CLOEXEC) != 0)
    throw CannotRun(fmt::format("{} cannot be run: {}", what, std::strerror(errno)));
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    become_child(limits, space > 0 ? space + limits.memory : 0);
    be_child(ends[1], work);
  }
  const int failure = errno;
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    throw CannotRun(fmt::format("{} cannot be run: {}", what, std::strerror(failure)));
  }
  Result result;
  const bool awake = await_first_bytes(ends[0], child);
  if (!awake) kill(child, SIGKILL);
  result.whole = awake && read_all(ends[0], &result.header, sizeof result.header);
  if (result.whole) {
    result.text.resize(result.header.size);
    result.whole = read_all(ends[0], result.text.data(), result.text.size());
  }
  close(ends[0]);
  const int status = wait_for(child);
  result.ended_by = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (!awake) return std::nullopt;
  return result;
}

[[noreturn]] void fail_to_run(const std::string& what) {
  throw CannotRun(fmt::format("{} cannot be run: {}", what, std::strerror(errno)));
}

/// Writes the file, which is then read from its beginning.
void fill(const std::string& what, int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(file, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail_to_run(what);
    text.remove_prefix(static_cast<size_t>(written));
  }
  lseek(file, 0, SEEK_SET);
}

constexpr int kNotStarted = 127;  // as shells have it

/// In the copy of a process that may have threads: nothing here takes a lock.
[[noreturn]] void become_program(int input, int output, char* const* arguments, const ChildLimits& limits) {
  setpgid(0, 0);  // with what it starts itself
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  become_child(limits, limits.memory);
  dup2(input, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0U);
  const char* environment[] = {"PATH=/usr/bin:/bin", "LANG=C.UTF-8", nullptr};  // the parent's may have keys
  execve(arguments[0], arguments, const_cast<char* const*>(environment));
  _exit(kNotStarted);
}

/// What is there to be read; false at the end.
bool append_part(int pipe, std::string& text) {
  std::array<char, size_t{64} << 10> part;
  const ssize_t got = ::read(pipe, part.data(), part.size());
  if (got > 0) text.append(part.data(), static_cast<size_t>(got));
  return got > 0 || (got < 0 && errno == EINTR);
}

}  // namespace

std::string find_program(const std::string& name) {
  const char* given = std::getenv("PATH");
  std::string_view path = given != nullptr ? given : "";
  while (!path.empty()) {
    const auto end = std::min(path.find(':'), path.size());
    const auto folder = path.substr(0, end);
    path.remove_prefix(std::min(end + 1, path.size()));
    auto file = fmt::format("{}/{}", folder, name);
    struct stat about {};
    if (folder.starts_with('/') && stat(file.c_str(), &about) == 0 && S_ISREG(about.st_mode) &&
        access(file.c_str(), X_OK) == 0)
      return file;
  }
  return "";
}

std::string run_program(const std::string& what, const std::vector<std::string>& command,
                        std::string_view input, const ChildLimits& limits, size_t most,
                        const std::function<bool()>& cancelled) {
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const auto& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  // In memory: whoever feeds a pipe and reads another at once needs a thread.
  const Descriptor file(memfd_create("input", MFD_CLOEXEC));
  if (file.get() < 0) fail_to_run(what);
  fill(what, file.get(), input);
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) fail_to_run(what);
  const Descriptor reading(ends[0]);
  Descriptor writing(ends[1]);
  const pid_t child = fork();
  if (child == 0) become_program(file.get(), writing.get(), arguments.data(), limits);
  if (child < 0) fail_to_run(what);
  writing.close();
  // A program that it started may outlive it and keep the pipe open.
  const auto deadline = Clock::now() + std::chrono::duration<double>(kClockFactor * limits.seconds);
  std::string text;
  bool in_time = true, wanted = true;
  for (bool open = true; open && in_time && wanted && text.size() <= most;) {
    constexpr int kMilliseconds = 100;
    pollfd readable{reading.get(), POLLIN, 0};
    if (poll(&readable, 1, kMilliseconds) > 0) open = append_part(reading.get(), text);
    in_time = Clock::now() < deadline;
    wanted = !cancelled || !cancelled();
  }
  if (!in_time || !wanted || text.size() > most) kill(-child, SIGKILL);
  const int status = wait_for(child);
  const int ended_by = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (!wanted) throw Cancelled();
  if (text.size() > most) throw Error(fmt::format("{} gives more than {} MiB", what, most >> 20));
  if (!in_time || ended_by == SIGPROF || ended_by == SIGALRM)
    throw Error(fmt::format("{} is not done after {:g} s", what, limits.seconds));
  if (ended_by > 0) throw Error(fmt::format("{} crashes ({})", what, strsignal(ended_by)));
  if (WEXITSTATUS(status) == kNotStarted) throw CannotRun(fmt::format("{} cannot be run", what));
  if (WEXITSTATUS(status) != 0) throw Error(fmt::format("{} fails", what));
  return text;
}

std::string run_in_child(const std::string& what, const std::function<std::string()>& work,
                         const ChildLimits& limits) {
  constexpr int kTries = 10;
  for (int i = 0; i < kTries; ++i) {
    auto result = result_of(what, work, limits);
    if (!result) continue;
    const int ended_by = result->ended_by;
    if (!result->whole && (ended_by == SIGPROF || ended_by == SIGALRM))
      throw Error(fmt::format("{} is not done after {:g} s", what, limits.seconds));
    if (!result->whole)
      throw Error(
          fmt::format("{} crashes{}", what, ended_by > 0 ? fmt::format(" ({})", strsignal(ended_by)) : ""));
    if (result->header.outcome == Outcome::kOutOfMemory)
      throw Error(fmt::format("{} takes more than {} MiB of memory", what, limits.memory >> 20));
    if (result->header.outcome == Outcome::kThrown)
      throw Error(fmt::format("{} fails: {}", what, result->text));
    return std::move(result->text);
  }
  throw Error(fmt::format("{} waits for ever, in each of {} copies of the process", what, kTries));
}

}  // namespace windowkv
