#pragma once

namespace windowkv::cli {

/// From here on the first Ctrl-C, SIGTERM or SIGHUP sets a flag instead of ending the process, so that work
/// can stop where it is and show what it has. A second one removes unfinished files and ends the process.
void catch_interrupts();
bool interrupted();
/// Takes a Ctrl-C as dealt with: the next one is a first one again. Other signals stay.
void forget_interrupt();

/// The exit code of a command that was stopped, as a shell has it for the signal: 130 for Ctrl-C, 143 for
/// SIGTERM.
int interrupted_exit();

}  // namespace windowkv::cli
