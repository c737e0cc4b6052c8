#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "support/bytes_text.h"

namespace windowkv::cli {

/// Ends the command with this exit code and no message.
struct ExitWith {
  int code;
};
inline constexpr int kUsageExit = 2;
inline constexpr int kLeftOutExit = 3;       ///< done, but without some of the samples or tasks
inline constexpr int kClosedPipeExit = 141;  ///< what a shell reports for a process that SIGPIPE ended

/// "45 s", "12 min", "3 h 20 min".
std::string duration_text(double seconds);

/// Whether standard output is coloured: "always", "never", or "auto": on a terminal that can, unless NO_COLOR
/// is set (no-color.org).
bool in_color(const std::string& wanted);

/// Rows of cells as aligned columns, two spaces apart; the first column to the left, the others to the right.
std::string table_text(const std::vector<std::vector<std::string>>& rows);

/// Opens /dev/null in place of standard streams that are closed, so that no file opened later takes their
/// place; what is printed then fails. Also makes a write into a pipe without a reader fail, not end the
/// process.
void secure_standard_streams();

/// Writes to standard output; throws Error where that fails, ExitWith where the reader has left.
void print(std::string_view text);

/// Writes to standard error. What cannot be written there is lost; no command fails for it.
void tell(std::string_view text);

/// A line on standard error that begins with "windowkv: warning: ".
void warn(const std::string& text);

/// The same with "note: ": what the command does that may not be what was meant.
void note(const std::string& text);

/// Progress of work that may take long, on standard error, with an estimate of the time left. On a terminal
/// one line that is written over; else, and on one without a cursor (TERM=dumb), a line after ten seconds and
/// then one every tenth of the work at most. Silent for work that is done within a second.
class Progress {
 public:
  explicit Progress(std::string what);
  ~Progress() { clear(); }
  void update(int64_t done, int64_t total);
  /// On a terminal, names work whose progress is not known in the place of the time left, until the next
  /// update.
  void stage(const std::string& name);
  /// From here on none is shown, for --quiet.
  static void silence();
  /// Takes the line away.
  void clear();
  /// Of the work, by the latest update: 0 to 1.
  double share() const { return share_; }

 private:
  /// The line: the share, and `end` behind it.
  void show(const std::string& end);

  std::string what_;
  bool line_;
  bool told_ = false;
  size_t shown_ = 0;  // characters of the line
  double share_ = 0;
  double last_share_ = 0;
  int64_t start_ms_;
  int64_t last_ms_;
};

}  // namespace windowkv::cli
