#include "cli/help.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "cli/arguments.h"

namespace windowkv::cli {

namespace {

constexpr size_t kColumn = 32;  // where descriptions begin
constexpr size_t kWidth = 100;

/// `left`, and `text` beside it, broken into lines.
std::string entry(const std::string& left, const std::string& text) {
  std::string out = "  " + left;
  size_t at = out.size();
  auto to_column = [&] {
    out.append(kColumn - at, ' ');
    at = kColumn;
  };
  if (at + 2 > kColumn) {
    out += '\n';
    at = 0;
  }
  to_column();
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (at > kColumn && at + 1 + word.size() > kWidth) {
      out += '\n';
      at = 0;
      to_column();
    }
    if (at > kColumn) {
      out += ' ';
      ++at;
    }
    out += word;
    at += word.size();
  }
  return out + "\n";
}

/// "FILE", "N"; CLI11 adds what is checked, which the descriptions say.
std::string value_name(const CLI::Option& option) {
  auto name = option.get_type_name();
  for (const char* check : {":INT in", ":UINT in", ":FLOAT in", ":{"})
    if (const auto at = name.find(check); at != std::string::npos) name.resize(at);
  if (name == "INT" || name == "UINT") return "N";
  if (name == "FLOAT") return "X";
  return name;
}

std::string option_entry(const CLI::Option& option) {
  std::string left;
  for (const auto& name : option.get_snames()) left += fmt::format("{}-{}", left.empty() ? "" : ", ", name);
  if (left.empty() && !option.get_positional()) left = "    ";
  for (const auto& name : option.get_lnames())
    left += fmt::format("{}--{}", left.ends_with(' ') ? "" : ", ", name);
  if (option.get_positional()) left += option.get_name(true);
  if (option.get_items_expected_max() != 0 && !option.get_positional()) left += " " + value_name(option);
  auto text = option.get_description();
  auto standard = option.get_default_str();
  if (standard.starts_with('[') && standard.ends_with(']'))
    standard = standard.substr(1, standard.size() - 2);
  if (!standard.empty()) text += fmt::format(" (default: {})", standard);
  return entry(left, text);
}

std::string section(const std::string& title, const std::string& entries) {
  return entries.empty() ? "" : fmt::format("\n{}:\n{}", title, entries);
}

bool is_shown(const CLI::Option& option, bool all) {
  return all || option.get_group() != kRareOptions;
}

std::string entries_of(const CLI::App& group, bool all) {
  std::string entries;
  for (const auto* option : group.get_options())
    if (is_shown(*option, all)) entries += option_entry(*option);
  return entries;
}

}  // namespace

void show_in_short_help(CLI::App& group, std::initializer_list<const char*> shown) {
  for (auto* option : group.get_options())
    if (std::ranges::none_of(shown, [&](const char* name) { return option->check_name(name); }))
      option->group(kRareOptions);
}

std::string help_page(CLI::App& command, bool all) {
  const auto options = all_options(command);
  std::string text = fmt::format("{}\n\nUsage: windowkv {}", command.get_description(), command.get_name());
  for (const auto* option : options) {
    if (option->get_positional())
      text += " " + option->get_name(true);
    else if (option->get_required())
      text += fmt::format(" {} {}",
                          option->get_snames().empty() ? "--" + option->get_lnames().front()
                                                       : "-" + option->get_snames().front(),
                          value_name(*option));
  }
  text += " [options]\n";
  auto help = entry("-h, --help", "show this help, or all options with --help-all");
  for (const auto* group :
       command.get_subcommands([](const CLI::App* sub) { return sub->get_name().empty(); }))
    text += section(group->get_group(), entries_of(*group, all));
  text += section("Options", entries_of(command, all) + help);
  if (!command.get_footer().empty()) text += "\n" + command.get_footer() + "\n";
  if (!all && std::ranges::any_of(options, [](const auto* option) { return !is_shown(*option, false); }))
    text += fmt::format("\nFor all options: windowkv {} --help-all\n", command.get_name());
  return text;
}

std::string overview(CLI::App& app) {
  std::string entries;
  for (const auto* command : app.get_subcommands([](CLI::App*) { return true; }))
    entries += entry(command->get_name(), command->get_description());
  return fmt::format("{}\n\nUsage: windowkv COMMAND [options]\n{}\n{}\n", app.get_description(),
                     section("Commands", entries), app.get_footer());
}

}  // namespace windowkv::cli
