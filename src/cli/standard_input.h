#pragma once

#include <optional>
#include <string>

namespace windowkv::cli {

/// What is piped into the command: the whole of standard input where that is a pipe, a socket, or a file at
/// its beginning; nullopt where it is a terminal, a device such as /dev/null, or a file that a script is
/// reading line by line. Waits for the end of the input, and says so where that takes long. With `optional`,
/// nothing arriving within five seconds counts as nothing piped, with a warning: a pipe may be inherited from
/// a parent that never writes to it. Throws Error where reading fails.
std::optional<std::string> piped_input(bool optional);

}  // namespace windowkv::cli
