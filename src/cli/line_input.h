#pragma once

#include <optional>
#include <string>

namespace windowkv::cli {

/// Lines that a person types, with editing and a history (libedit), or that arrive through a pipe. A line
/// that ends in a backslash goes on in the next one.
class LineInput {
 public:
  /// `prompt`: shown on a terminal.
  explicit LineInput(std::string prompt);

  bool on_terminal() const { return terminal_; }
  /// The next one; nullopt at the end of the input. Ctrl-C on a terminal gives up the line that was begun.
  /// Throws Error for text that is not UTF-8, Cancelled for a signal that ends the program.
  std::optional<std::string> read();

 private:
  std::optional<std::string> read_one(const std::string& prompt);

  std::string prompt_;
  bool terminal_;
};

}  // namespace windowkv::cli
