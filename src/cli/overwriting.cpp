#include "cli/overwriting.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "cli/arguments.h"
#include "eval/jsonl_log.h"
#include "support/file.h"

namespace windowkv::cli {

namespace {

namespace fs = std::filesystem;

// The flags, over all commands, whose value is a file to be written.
constexpr std::array kWritten = {"out", "json",      "markdown",      "trace",
                                 "log", "reference", "generate-only", "save-prefix"};
// Those of them whose file is continued (JsonlLog), and the commands whose --out is another.
constexpr std::array kContinued = {"out", "log", "reference"};
constexpr std::array kReplaceOut = {"calibrate", "classify"};

bool is_written(const CLI::Option& option) {
  return std::ranges::any_of(kWritten, [&](const char* name) { return option.check_lname(name); });
}

bool is_continued(const CLI::App& command, const CLI::Option& option) {
  if (option.check_lname("out") && std::ranges::find(kReplaceOut, command.get_name()) != kReplaceOut.end())
    return false;
  return std::ranges::any_of(kContinued, [&](const char* name) { return option.check_lname(name); });
}

/// Whether a file is empty or holds results of an earlier run.
bool holds_results(const std::string& path) {
  return eval::JsonlLog::begins_row(read_file_start(path, 64));
}

/// What may be a path among the values of a flag.
bool names_files(const CLI::Option& option) {
  const auto type = option.get_type_name();
  return type.find("FILE") != std::string::npos || type.find("PATH") != std::string::npos;
}

/// Whether two paths are one file, links followed; devices and pipes are shared freely.
bool same_file(const fs::path& a, const fs::path& b) {
  std::error_code failed;
  if (fs::exists(a, failed) && fs::exists(b, failed))
    return fs::is_regular_file(a, failed) && fs::equivalent(a, b, failed);
  const auto one = fs::weakly_canonical(fs::absolute(a), failed);
  return !failed && one == fs::weakly_canonical(fs::absolute(b), failed);
}

/// Whether an existing file is in the folder or below it, by its own path or by a link in the folder.
bool is_in_folder(const fs::path& file, const fs::path& folder) {
  std::error_code failed;
  if (!fs::is_directory(folder, failed) || !fs::is_regular_file(file, failed)) return false;
  for (auto at = fs::canonical(file, failed); at.has_relative_path(); at = at.parent_path())
    if (fs::equivalent(at.parent_path(), folder, failed)) return true;
  return std::ranges::any_of(fs::directory_iterator(folder, failed),
                             [&](const auto& entry) { return same_file(file, entry.path()); });
}

std::string name_of(const CLI::Option& option) {
  return "--" + option.get_lnames().front();
}

}  // namespace

void refuse_overwriting(CLI::App& command) {
  struct Named {
    const CLI::Option* option;
    std::string path;
  };
  std::vector<Named> files;
  for (const auto* option : all_options(command))
    if (option->count() > 0 && names_files(*option))
      for (const auto& value : option->results())
        if (value != "-") files.push_back({option, value});
  for (const auto& output : files) {
    if (!is_written(*output.option)) continue;
    const auto refuse = [&](const std::string& path, const std::string& what) {
      throw UsageError(
          fmt::format("{} would overwrite {}, {}; choose another name", name_of(*output.option), path, what),
          help_of(command));
    };
    for (const auto& other : files) {
      if (other.option == output.option) continue;
      // A saved prefix is written beside its name and renamed, and may be the one that was read, continued.
      if (output.option->check_lname("save-prefix") && other.option->check_lname("prefix")) continue;
      if (same_file(output.path, other.path))
        refuse(other.path, "the file given with " + name_of(*other.option));
      if (is_in_folder(output.path, other.path) &&
          !(is_continued(command, *output.option) && holds_results(output.path)))
        refuse(output.path, "a file in the folder given with " + name_of(*other.option));
    }
    if (same_file(output.path, "/dev/stdin")) refuse(output.path, "which is standard input");
  }
}

void refuse_empty_paths(CLI::App& command) {
  for (const auto* option : all_options(command))
    if (names_files(*option) && std::ranges::find(option->results(), "") != option->results().end())
      throw UsageError(fmt::format("{}: the path is empty", name_of(*option)), help_of(command));
}

}  // namespace windowkv::cli
