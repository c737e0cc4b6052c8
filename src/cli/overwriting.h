#pragma once

#include <CLI/CLI.hpp>

namespace windowkv::cli {

/// Throws UsageError where a file that the parsed command would write is one that it reads, or is to be
/// written by another of its flags: a slip such as `calibrate -m model.gguf -o model.gguf` must not cost the
/// model.
void refuse_overwriting(CLI::App& command);

}  // namespace windowkv::cli
