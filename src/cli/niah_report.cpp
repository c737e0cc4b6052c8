#include "cli/niah_report.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/output.h"

namespace windowkv::cli {

using nlohmann::ordered_json;

namespace {

/// NaN, where no prompt ran, is null.
ordered_json number(double value) {
  return std::isnan(value) ? ordered_json(nullptr) : ordered_json(value);
}

ordered_json numbers(const std::vector<double>& values) {
  auto json = ordered_json::array();
  for (double value : values) json.push_back(number(value));
  return json;
}

}  // namespace

Table niah_table(const NiahReport& report) {
  Table rows = {{"policy", "kept", "KV bytes"}};
  for (auto length : report.grid.lengths) rows[0].push_back(fmt::format("{}", length));
  for (const char* name : {"ROUGE-1", "ROUGE-1, 95 %", "exact", "exact, 95 %"}) rows[0].emplace_back(name);
  for (const auto& s : report.summaries) {
    auto& row = rows.emplace_back();
    row = {s.name, percent(s.kept_share), bytes_text(std::llround(s.kept_bytes))};
    for (double value : s.by_length) row.push_back(one_digit(value));
    for (const auto* score : {&s.overall, &s.exact}) {
      row.push_back(one_digit(score->mean));
      row.push_back(interval_text(*score));
    }
  }
  return rows;
}

ordered_json niah_json(const NiahReport& report) {
  ordered_json json = {{"test", facts_json(report.facts)},
                       {"lengths", report.grid.lengths},
                       {"depths", report.grid.depths},
                       {"seeds", report.grid.seeds},
                       {"contenders", ordered_json::array()}};
  for (const auto& s : report.summaries) {
    ordered_json row = {{"policy", s.name},
                        {"budget", s.budget},
                        {"kept_share", number(s.kept_share)},
                        {"kept_bytes", number(s.kept_bytes)},
                        {"rouge1", estimate_json(s.overall)},
                        {"exact", estimate_json(s.exact)},
                        {"rouge1_by_length", numbers(s.by_length)},
                        {"rouge1_by_depth_and_length", ordered_json::array()}};
    for (const auto& depth : s.rouge1) row["rouge1_by_depth_and_length"].push_back(numbers(depth));
    json["contenders"].push_back(std::move(row));
  }
  return json;
}

}  // namespace windowkv::cli
