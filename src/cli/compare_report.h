#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/eval_report.h"
#include "cli/niah_report.h"
#include "eval/compare.h"

namespace windowkv::cli {

/// What a comparison leaves to tell.
struct CompareReport {
  std::vector<eval::ContenderResult> results;  ///< the full policy first
  Facts provenance;
  size_t samples = 0;
  size_t failed = 0;
  bool follow = false;             ///< fidelity alone
  std::optional<NiahReport> niah;  ///< where needles were among the samples
};

/// A header row, then a row a contender.
Table compare_table(const CompareReport& report);
/// The table, and the needle grid's where there is one.
std::string compare_markdown(const CompareReport& report);
nlohmann::ordered_json compare_json(const CompareReport& report);

}  // namespace windowkv::cli
