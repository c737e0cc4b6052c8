#include "cli/line_input.h"

#include <editline/readline.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <memory>

#include "cli/interrupt.h"
#include "cli/output.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

LineInput::LineInput(std::string prompt)
    : prompt_(std::move(prompt)), terminal_(isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1) {
  if (!terminal_) return;
  using_history();
  stifle_history(1000);
}

std::optional<std::string> LineInput::read_one(const std::string& prompt) {
  if (!terminal_) {
    std::string line;
    if (!std::getline(std::cin, line)) return std::nullopt;
    return line;
  }
  const std::unique_ptr<char, decltype(&std::free)> line(readline(prompt.c_str()), &std::free);
  if (!line) return std::nullopt;
  return std::string(line.get());
}

std::optional<std::string> LineInput::read() {
  std::string text;
  for (bool more = false;;) {
    auto line = read_one(more ? "... " : prompt_);
    if (interrupted()) {
      forget_interrupt();
      if (interrupted() || !terminal_) throw Cancelled();
      print("\n");
      text.clear();
      more = false;
      continue;
    }
    if (!line) return more ? std::optional(text) : std::nullopt;
    if (line->ends_with('\r')) line->pop_back();
    more = line->ends_with('\\');
    if (more) line->back() = '\n';
    text += *line;
    if (more) continue;
    if (terminal_ && !text.empty()) add_history(text.c_str());
    return checked_text(std::move(text), "the line");
  }
}

}  // namespace windowkv::cli
