#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "windowkv/error.h"

namespace windowkv {

/// What a child process may take, beyond what this process has at the fork.
struct ChildLimits {
  double seconds = 3;               ///< of processor time
  size_t memory = size_t{1} << 30;  ///< bytes
};

/// The text that `work` returns, computed in a copy of this process: for code that hostile input can crash,
/// keep busy for ever or let fill the memory. What it writes to stderr is dropped. `work` must not wait for
/// anything: a copy that does is taken for one made while another thread held a lock, and another is made. So
/// `work` may run several times, each in a fresh copy. Throws Error, beginning with `what`, where it throws,
/// ends the copy, exceeds the limits or waits in ten copies.
std::string run_in_child(const std::string& what, const std::function<std::string()>& work,
                         const ChildLimits& limits = {});

/// A program or the copy of a process cannot be started.
struct CannotRun : Error {
  using Error::Error;
};

/// Where PATH has a program of that name; empty: nowhere.
std::string find_program(const std::string& name);

/// What a program writes to its standard output, up to `most` bytes, given `input` on its standard input.
/// `command`: its path, and arguments. It gets nothing else that this process has open, and none of its
/// environment; what it writes to stderr is dropped. ChildLimits::memory is all it may have. It ends with the
/// calling thread, or when `cancelled` says so. Throws Error, beginning with `what`, where it fails, writes
/// more or exceeds the limits, CannotRun where it cannot be started, Cancelled.
std::string run_program(const std::string& what, const std::vector<std::string>& command,
                        std::string_view input, const ChildLimits& limits, size_t most,
                        const std::function<bool()>& cancelled = {});

}  // namespace windowkv
