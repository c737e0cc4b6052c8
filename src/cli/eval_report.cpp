#include "cli/eval_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
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

eval::Measured measured(const eval::Estimate& e) {
  return {e.mean, e.low, e.high};
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

eval::HtmlTable html_table(Table rows) {
  eval::HtmlTable table;
  table.header = std::move(rows.front());
  rows.erase(rows.begin());
  table.rows = std::move(rows);
  return table;
}

std::string score_over_kept_svg(const std::vector<KeptScore>& scores, const std::string& title,
                                const std::string& y_label) {
  eval::LineChart chart{.title = title, .x_label = "kept, % of the full cache", .y_label = y_label};
  chart.first_color = 1;  // full, the first in bar charts, has no place here
  for (const auto& one : scores) {
    auto series = std::find_if(chart.series.begin(), chart.series.end(),
                               [&](const auto& s) { return s.name == one.policy; });
    if (series == chart.series.end()) series = chart.series.insert(series, {one.policy, {}});
    series->points.push_back({100 * one.kept_share, measured(one.score)});
  }
  for (auto& series : chart.series)
    std::sort(series.points.begin(), series.points.end(),
              [](const auto& a, const auto& b) { return a.x < b.x; });
  return eval::line_chart_svg(chart);
}

}  // namespace windowkv::cli
