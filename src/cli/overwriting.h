#pragma once

#include <CLI/CLI.hpp>

namespace windowkv::cli {

/// Throws UsageError where a file that the parsed command would write is one that it reads, lies in a folder
/// that it reads, or is to be written by another of its flags: a slip such as `calibrate -m model.gguf -o
/// model.gguf` must not cost the model. Results that a command continues may lie among its data.
void refuse_overwriting(CLI::App& command);

/// Throws UsageError where the path of a file is empty, as it is where a script's variable is not set.
void refuse_empty_paths(CLI::App& command);

}  // namespace windowkv::cli
