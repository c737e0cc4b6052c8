#pragma once

#include <CLI/CLI.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace windowkv::cli {

/// A command line that means nothing, as one line; `page` is the help that says more ("windowkv run --help").
struct UsageError : std::runtime_error {
  UsageError(const std::string& what, std::string help) : std::runtime_error(what), page(std::move(help)) {}
  std::string page;
};

/// The command is not to run, but to print this.
enum class Page { kHelp, kHelpAll, kDevices };

/// What was typed after the name of a command, as CLI11 reads it without guessing: flags by their long names,
/// each followed by its value. llama.cpp's flags (llama_flags.h) become ours or go; notes about those are
/// added to `notes`. Throws UsageError for what is no flag of either, naming it as typed, for a value glued
/// to a one-letter flag, a flag without its value, and a word that belongs to no flag; a Page that is asked
/// for.
std::vector<std::string> plain_arguments(CLI::App& command, std::span<const std::string> typed,
                                         std::vector<std::string>& notes);

/// "windowkv run --help".
std::string help_of(const CLI::App& command);

/// Every option of a command, those of its groups too, in the order they were added.
std::vector<CLI::Option*> all_options(CLI::App& command);

/// The one that `typed` is likely meant to be, "" where none is near.
std::string nearest(const std::string& typed, const std::vector<std::string>& names);

}  // namespace windowkv::cli
