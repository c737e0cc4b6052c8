#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace windowkv::test {

/// A program under way, its output in files; killed where it still runs when this goes.
class Program {
 public:
  /// Starts arguments[0]. `name` tells its output files from others'.
  Program(const std::string& name, const std::vector<std::string>& arguments);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void send(int signal) const;
  /// Its exit code, or minus the signal that ended it; nullopt where it still runs after that time.
  std::optional<int> wait(std::chrono::milliseconds patience);
  /// Seconds of processor time it has taken.
  double cpu_seconds() const;
  std::string out() const;
  std::string err() const;

 private:
  std::string out_path_;
  std::string err_path_;
  pid_t pid_ = -1;
  std::optional<int> code_;
};

/// Whether it came true within that time; asked every few milliseconds.
bool eventually(const std::function<bool()>& what, std::chrono::milliseconds patience);

}  // namespace windowkv::test
