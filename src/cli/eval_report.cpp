#include "cli/eval_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace windowkv::cli {

using nlohmann::ordered_json;

std::string one_digit(double value) {
  return std::isnan(value) ? "-" : fmt::format("{:.1f}", value);
}

std::string two_digits(const std::optional<double>& value) {
  return value ? fmt::format("{:.2f}", *value) : "-";
}

std::string percent(double share) {
  return std::isnan(share) ? "-" : fmt::format("{:.1f} %", 100 * share);
}

std::string with_interval(const eval::Estimate& e) {
  return fmt::format("{:.1f} [{:.1f}, {:.1f}]", e.mean, e.low, e.high);
}

std::string interval_text(const eval::Estimate& e) {
  return fmt::format("{:.1f} to {:.1f}", e.low, e.high);
}

ordered_json estimate_json(const eval::Estimate& e) {
  return {{"mean", e.mean}, {"low", e.low}, {"high", e.high}};
}

ordered_json facts_json(const Facts& facts) {
  auto json = ordered_json::object();
  for (const auto& [name, value] : facts) json[name] = value;
  return json;
}

std::string markdown_table(const Table& rows) {
  std::string text;
  for (const auto& row : rows) {
    text += fmt::format("| {} |\n", fmt::join(row, " | "));
    if (&row != &rows.front()) continue;
    text += "|--|";
    for (size_t column = 1; column < row.size(); ++column) text += "--:|";
    text += "\n";
  }
  return text;
}

}  // namespace windowkv::cli
