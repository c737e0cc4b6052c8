#include "cli/overwriting.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "cli/arguments.h"

namespace windowkv::cli {

namespace {

namespace fs = std::filesystem;

// The flags, over all commands, whose value is a file to be written.
constexpr std::array kWritten = {"out", "json", "markdown", "trace", "log", "reference", "generate-only"};

bool is_written(const CLI::Option& option) {
  return std::ranges::any_of(kWritten, [&](const char* name) { return option.check_lname(name); });
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
    for (const auto& other : files)
      if (other.option != output.option && same_file(output.path, other.path))
        throw UsageError(fmt::format("{} would overwrite {}, the file given with {}; choose another name",
                                     name_of(*output.option), other.path, name_of(*other.option)),
                         help_of(command));
  }
}

}  // namespace windowkv::cli
