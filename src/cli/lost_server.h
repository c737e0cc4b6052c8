#pragma once

namespace windowkv::cli {

/// From here on an RPC server that is lost ends the program with one line and the exit code 1, and removes
/// files that are not finished. ggml tells of it by a call that must not return, from whatever thread is
/// talking to the server, so there is nothing to throw to.
void end_when_server_is_lost();

}  // namespace windowkv::cli
