#pragma once

#include <CLI/CLI.hpp>
#include <initializer_list>
#include <string>

namespace windowkv::cli {

/// CLI11's group of options that only --help-all shows.
inline constexpr const char* kRareOptions = "rare";

/// Leaves the options of a group that are not named in `shown` to --help-all.
void show_in_short_help(CLI::App& group, std::initializer_list<const char*> shown);

/// A command's help page: usage, its options by group, and its footer. Without `all`, what
/// show_in_short_help left.
std::string help_page(CLI::App& command, bool all);

/// The program's help page: its description, its commands, and its footer.
std::string overview(CLI::App& app);

}  // namespace windowkv::cli
