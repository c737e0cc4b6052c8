#pragma once

#include <fmt/format.h>

#include <memory>
#include <string>
#include <string_view>

#include "cli/interrupt.h"
#include "cli/output.h"
#include "eval/jsonl_log.h"
#include "windowkv/error.h"

namespace windowkv::cli {

/// The results file of an evaluation's --out; null where the flag was not given.
inline std::unique_ptr<eval::JsonlLog> open_log(const std::string& path) {
  return path.empty() ? nullptr : std::make_unique<eval::JsonlLog>(path);
}

/// What `work` returns. On Ctrl-C says how much was done, and how to go on if results are kept in `out`, and
/// ends the command. For work of which a part is of no use.
template <typename F>
auto run_resumable(Progress& progress, const std::string& out, F&& work) {
  try {
    auto result = work();
    progress.clear();
    return result;
  } catch (const Cancelled&) {
    progress.clear();
    tell(fmt::format("windowkv: interrupted at {:.0f} %{}\n", 100 * progress.share(),
                     out.empty() ? "; nothing was written"
                                 : fmt::format("; run the same command again to continue from {}", out)));
    throw ExitWith{interrupted_exit()};
  }
}

/// How to go on with a command whose results are kept in `log`, the file of --out; null where it was not
/// given.
inline std::string how_to_continue(const std::string& out, const eval::JsonlLog* log) {
  return log != nullptr && log->resumable()
             ? fmt::format("run the same command again to continue from {}", out)
             : "with --out FILE, an interrupted run can be continued";
}

/// Where a command was interrupted before all of its work was done: says how much the table shows, and
/// `how_to_go_on`, and ends it. `units`: what is counted, such as "prompts".
inline void end_if_interrupted(size_t done, size_t total, std::string_view units,
                               const std::string& how_to_go_on = "") {
  if (!interrupted() || done >= total) return;
  tell(fmt::format("windowkv: interrupted; {}{} of {} {}{}{}\n",
                   done > 0 ? "the table shows the " : "finished ", done, total, units,
                   done > 0 ? " that were finished" : "", how_to_go_on.empty() ? "" : "; " + how_to_go_on));
  throw ExitWith{interrupted_exit()};
}

}  // namespace windowkv::cli
