#include "cli/compare_report.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

namespace windowkv::cli {

using nlohmann::ordered_json;

namespace {

std::string three_digits(const eval::Estimate& e) {
  return fmt::format("{:.3f}", e.mean);
}

/// Fidelity in all: KL, top-1, same answers.
void add_fidelity(const eval::ContenderResult& r, std::vector<std::string>& row) {
  row.push_back(three_digits(r.kl));
  row.push_back(percent(r.top1_agreement.mean));
  row.push_back(percent(r.same_answer.mean));
}

Table score_table(const CompareReport& report) {
  Table rows = {{"policy", "kept"}};
  for (const auto& [dataset, estimate] : report.results.front().scores->by_dataset)
    rows[0].push_back(dataset);
  for (const char* name : {"all", "all, 95 %", "vs full, 95 %", "vs best other, 95 %", "KL", "top-1", "same"})
    rows[0].emplace_back(name);
  for (const auto& r : report.results) {
    std::vector<std::string> row = {r.name, percent(r.kept_share)};
    const auto& scores = *r.scores;
    for (const auto& [dataset, estimate] : scores.by_dataset)
      row.push_back(fmt::format("{:.1f}", estimate.mean));
    row.push_back(fmt::format("{:.1f}", scores.overall.mean));
    row.push_back(interval_text(scores.overall));
    row.push_back(with_interval(scores.over_full));
    row.push_back(scores.over_best_rival ? with_interval(*scores.over_best_rival) : "");
    add_fidelity(r, row);
    rows.push_back(std::move(row));
  }
  return rows;
}

/// Of a share, in per cent.
std::string percent_interval(const eval::Estimate& e) {
  return interval_text({100 * e.mean, 100 * e.low, 100 * e.high});
}

/// KL by dataset where score_table has scores.
Table follow_table(const CompareReport& report) {
  Table rows = {{"policy", "kept"}};
  for (const auto& [dataset, estimate] : report.results.front().kl_by_dataset)
    rows[0].push_back("KL " + dataset);
  for (const char* name : {"KL", "KL, 95 %", "top-1", "top-1, 95 %", "same", "same, 95 %", "score"})
    rows[0].emplace_back(name);
  for (const auto& r : report.results) {
    std::vector<std::string> row = {r.name, percent(r.kept_share)};
    for (const auto& [dataset, estimate] : r.kl_by_dataset) row.push_back(three_digits(estimate));
    row.push_back(three_digits(r.kl));
    row.push_back(fmt::format("{:.3f} to {:.3f}", r.kl.low, r.kl.high));
    row.push_back(percent(r.top1_agreement.mean));
    row.push_back(percent_interval(r.top1_agreement));
    row.push_back(percent(r.same_answer.mean));
    row.push_back(percent_interval(r.same_answer));
    row.push_back(r.scores ? fmt::format("{:.1f}", r.scores->overall.mean) : "");
    rows.push_back(std::move(row));
  }
  return rows;
}

ordered_json estimates_json(const std::map<std::string, eval::Estimate>& estimates) {
  auto json = ordered_json::object();
  for (const auto& [name, estimate] : estimates) json[name] = estimate_json(estimate);
  return json;
}

}  // namespace

Table compare_table(const CompareReport& report) {
  return report.follow ? follow_table(report) : score_table(report);
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
                        {"mean_kl", r.kl.mean},
                        {"top1_agreement", r.top1_agreement.mean},
                        {"same_answer", r.same_answer.mean},
                        {"intervals",
                         {{"mean_kl", estimate_json(r.kl)},
                          {"top1_agreement", estimate_json(r.top1_agreement)},
                          {"same_answer", estimate_json(r.same_answer)}}},
                        {"kl_by_dataset", estimates_json(r.kl_by_dataset)}};
    if (r.scores) {
      row["overall"] = estimate_json(r.scores->overall);
      row["over_full"] = estimate_json(r.scores->over_full);
      row["datasets"] = estimates_json(r.scores->by_dataset);
      if (r.scores->over_best_rival)
        row["over_best_rival"] = {{"policy", r.scores->best_rival},
                                  {"difference", estimate_json(*r.scores->over_best_rival)}};
    }
    json["contenders"].push_back(std::move(row));
  }
  if (report.niah) json["niah"] = niah_json(*report.niah);
  return json;
}

}  // namespace windowkv::cli
