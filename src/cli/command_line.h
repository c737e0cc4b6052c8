#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace windowkv::cli {

/// Runs the command that `words` (what was typed after the program's name) begin with, or prints the page
/// that they ask for. Throws UsageError (arguments.h) for a command line that means nothing, and what the
/// command throws.
void run_command_line(CLI::App& app, const std::vector<std::string>& words);

}  // namespace windowkv::cli
