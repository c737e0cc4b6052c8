#include "cli/compare_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "eval/html.h"
#include "eval/svg.h"

namespace windowkv::cli {

using nlohmann::ordered_json;

Table compare_table(const CompareReport& report) {
  Table rows = {{"policy", "kept"}};
  for (const auto& [dataset, estimate] : report.results.front().by_dataset) rows[0].push_back(dataset);
  for (const char* name : {"all", "all, 95 %", "less full, 95 %", "less best rival, 95 %", "KL", "top-1"})
    rows[0].emplace_back(name);
  for (const auto& r : report.results) {
    std::vector<std::string> row = {r.name, percent(r.kept_share)};
    for (const auto& [dataset, estimate] : r.by_dataset) row.push_back(fmt::format("{:.1f}", estimate.mean));
    row.push_back(fmt::format("{:.1f}", r.overall.mean));
    row.push_back(interval_text(r.overall));
    row.push_back(with_interval(r.over_full));
    row.push_back(r.over_best_rival ? with_interval(*r.over_best_rival) : "");
    row.push_back(fmt::format("{:.3f}", r.mean_kl));
    row.push_back(percent(r.top1_agreement));
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string compare_markdown(const CompareReport& report) {
  auto text = markdown_table(compare_table(report));
  if (report.niah) text += fmt::format("\n{}", markdown_table(niah_table(*report.niah)));
  return text;
}

ordered_json compare_json(const CompareReport& report) {
  ordered_json json = {{"provenance", facts_json(report.provenance)},
                       {"samples", report.samples},
                       {"failed", report.failed},
                       {"contenders", ordered_json::array()}};
  for (const auto& r : report.results) {
    ordered_json row = {{"policy", r.name},
                        {"budget", r.budget},
                        {"kept_share", r.kept_share},
                        {"overall", estimate_json(r.overall)},
                        {"over_full", estimate_json(r.over_full)},
                        {"mean_kl", r.mean_kl},
                        {"top1_agreement", r.top1_agreement},
                        {"datasets", ordered_json::object()}};
    if (r.over_best_rival)
      row["over_best_rival"] = {{"policy", r.best_rival}, {"difference", estimate_json(*r.over_best_rival)}};
    for (const auto& [dataset, estimate] : r.by_dataset) row["datasets"][dataset] = estimate_json(estimate);
    json["contenders"].push_back(std::move(row));
  }
  if (report.niah) json["niah"] = niah_json(*report.niah);
  return json;
}

namespace {

/// Where only one budget was run, there is nothing to connect.
std::string score_over_kept(const CompareReport& report) {
  std::vector<KeptScore> scores;
  for (const auto& r : report.results)
    if (r.budget != "100%") scores.push_back({eval::policy_in(r.name), r.kept_share, r.overall});
  return score_over_kept_svg(scores, "Score against kept KV bytes", "score");
}

/// The datasets' scores of the policies at one budget, full beside them.
std::string scores_by_dataset(const CompareReport& report, const std::string& budget) {
  eval::BarChart chart;
  chart.title = "Scores at " + budget;
  chart.y_label = "score";
  for (const auto& [dataset, estimate] : report.results.front().by_dataset)
    chart.categories.push_back(dataset);
  for (const auto& r : report.results) {
    if (r.budget != budget && &r != &report.results.front()) continue;
    eval::BarSeries series{r.name, {}};
    for (const auto& [dataset, estimate] : r.by_dataset) series.values.push_back(measured(estimate));
    chart.series.push_back(std::move(series));
  }
  return eval::bar_chart_svg(chart);
}

}  // namespace

std::string compare_html(const CompareReport& report) {
  eval::HtmlReport page("KV cache policies compared");
  page.paragraph(
      fmt::format("{} samples, {} failed. Scores are 0 to 100 with 95 % bootstrap intervals; KL and top-1 "
                  "compare next-token distributions with the full cache's along its own answer.",
                  report.samples, report.failed));
  page.figure(score_over_kept(report));
  std::set<std::string> budgets;
  for (const auto& r : report.results)
    if (&r != &report.results.front() && budgets.insert(r.budget).second)
      page.figure(scores_by_dataset(report, r.budget));
  page.heading("All figures");
  page.table(html_table(compare_table(report)));
  if (report.niah) {
    page.heading("Needle in a haystack");
    add_niah_section(page, *report.niah);
  }
  page.heading("Where they come from");
  page.facts(report.provenance);
  return page.html();
}

}  // namespace windowkv::cli
