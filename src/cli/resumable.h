#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

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
                     : !std::filesystem::exists(out)
                         ? "; nothing was finished yet"
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

/// "; a.json and b.md were not written", of the paths that are not empty.
inline std::string unwritten_text(std::initializer_list<std::string_view> paths) {
  std::vector<std::string_view> given;
  std::ranges::copy_if(paths, std::back_inserter(given), [](const auto& path) { return !path.empty(); });
  if (given.empty()) return "";
  return fmt::format("; {} {} not written", fmt::join(given, " and "), given.size() > 1 ? "were" : "was");
}

/// Where a command was interrupted before all of its work was done: says how much the table shows, which of
/// its files (`outputs`; "" for none) it leaves out, and `how_to_go_on`, and ends it. `units`: what is
/// counted, such as "prompts".
inline void end_if_interrupted(size_t done, size_t total, std::string_view units,
                               std::initializer_list<std::string_view> outputs = {},
                               const std::string& how_to_go_on = "") {
  if (!interrupted() || done >= total) return;
  tell(fmt::format("windowkv: interrupted; {}{} of {} {}{}{}{}\n",
                   done > 0 ? "the table shows the " : "finished ", done, total, units,
                   done > 0 ? " that were finished" : "", unwritten_text(outputs),
                   how_to_go_on.empty() ? "" : "; " + how_to_go_on));
  throw ExitWith{interrupted_exit()};
}

}  // namespace windowkv::cli
