#pragma once

#include <fmt/format.h>

#include <memory>
#include <string>

#include "cli/interrupt.h"
#include "cli/output.h"
#include "eval/jsonl_log.h"
#include "windowkv/error.h"

namespace windowkv::cli {

/// The results file of an evaluation's --out; null where the flag was not given.
inline std::unique_ptr<eval::JsonlLog> open_log(const std::string& path) {
  return path.empty() ? nullptr : std::make_unique<eval::JsonlLog>(path);
}

/// What `work` returns. On Ctrl-C says how to go on, if results are kept in `out`, and ends the command.
template <typename F>
auto run_resumable(Progress& progress, const std::string& out, F&& work) {
  try {
    auto result = work();
    progress.clear();
    return result;
  } catch (const Cancelled&) {
    progress.clear();
    tell(fmt::format("windowkv: interrupted{}\n",
                     out.empty() ? "" : fmt::format("; the same command goes on from {}", out)));
    throw ExitWith{kInterruptedExit};
  }
}

}  // namespace windowkv::cli
