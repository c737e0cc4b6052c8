#include "cli/command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "cli/arguments.h"
#include "cli/devices.h"
#include "cli/help.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/overwriting.h"

namespace windowkv::cli {

namespace {

/// A word as it would be typed.
std::string quoted(const std::string& word) {
  const bool plain = !word.empty() && word.find_first_of(" \t\n\"'$`\\*?[]{}()<>|&;!#~") == std::string::npos;
  return plain ? word : fmt::format("\"{}\"", word);
}

std::vector<CLI::App*> commands(CLI::App& app) {
  return app.get_subcommands([](CLI::App*) { return true; });
}

/// What other programs call a command, and what to say of it.
struct OtherName {
  std::string_view names;  ///< between blanks
  std::string_view hint;
};
constexpr OtherName kOtherNames[] = {
    {" server http api llama-server ", "did you mean serve?"},
    {" generate complete completion ask answer infer cli llama-cli ", "did you mean run or chat?"},
    {" benchmark llama-bench ", "did you mean bench?"},
    {" info show ", "did you mean inspect?"},
    {" version ", "did you mean --version?"},
    {" devices ", "did you mean --list-devices?"},
};

std::string_view hint_for(const std::string& word) {
  const auto* found = std::ranges::find_if(kOtherNames, [&](const OtherName& other) {
    return other.names.find(" " + word + " ") != std::string_view::npos;
  });
  return found == std::end(kOtherNames) ? "" : found->hint;
}

/// Says what is wrong with words that do not begin with a command's name.
[[noreturn]] void refuse(CLI::App& app, const std::vector<std::string>& words) {
  const std::string page("windowkv --help");
  if (words[0].starts_with('-') || words[0].ends_with(".gguf")) {
    std::string line(words[0].starts_with('-') ? "windowkv run" : "windowkv run -m");
    for (const auto& word : words) line += fmt::format(" {}", quoted(word));
    if (line.size() > 120) line = fmt::format("{:.117}...", line);
    throw UsageError("the command comes first, as in: " + line, page);
  }
  if (const auto hint = hint_for(words[0]); !hint.empty())
    throw UsageError(fmt::format("unknown command \"{}\"; {}", words[0], hint), page);
  std::vector<std::string> names;
  for (const auto* command : commands(app)) names.push_back(command->get_name());
  const auto near = nearest(words[0], names);
  throw UsageError(fmt::format("unknown command \"{}\"{}", words[0],
                               near.empty() ? "" : fmt::format("; did you mean {}?", near)),
                   page);
}

}  // namespace

void run_command_line(CLI::App& app, const std::vector<std::string>& words) {
  const auto& first = words.empty() ? "" : words[0];
  if (first.empty()) {
    tell(overview(app));
    throw ExitWith{kUsageExit};
  }
  if (first == "--version") return print(fmt::format("windowkv {}\n", WINDOWKV_VERSION));
  if (first == "--list-devices") return print(devices_text());
  if (first == "help" && words.size() > 1) return run_command_line(app, {words[1], "--help"});
  if (first == "help" || first == "-h" || first == "--help" || first == "--help-all")
    return print(overview(app));
  const auto all = commands(app);
  const auto found =
      std::ranges::find_if(all, [&](const auto* command) { return command->get_name() == first; });
  if (found == all.end()) refuse(app, words);
  auto& command = **found;
  try {
    std::vector<std::string> notes;
    auto arguments = plain_arguments(command, std::span(words).subspan(1), notes);
    // Where more values may follow a flag, CLI11 takes "[a,b]" for two; plain_arguments leaves one each.
    for (auto* option : all_options(command)) {
      option->allow_extra_args(false);
      // As in llama.cpp, the last one counts where a flag is given twice.
      if (option->get_items_expected_max() == 1) option->take_last();
      if (option->get_type_name().find("FLOAT") != std::string::npos) option->check(finite_number());
    }
    command.parse_complete_callback([&] {
      refuse_empty_paths(command);
      refuse_overwriting(command);
      for (const auto& text : notes) note(text);
    });
    arguments.insert(arguments.begin(), first);
    std::ranges::reverse(arguments);
    app.parse(std::move(arguments));
  } catch (const Page& page) {
    print(page == Page::kDevices ? devices_text() : help_page(command, page == Page::kHelpAll));
  } catch (const CLI::ParseError& e) {
    throw UsageError(e.what(), help_of(command));
  }
}

}  // namespace windowkv::cli
