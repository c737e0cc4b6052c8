#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "cli/eval_report.h"
#include "eval/niah.h"

namespace windowkv::cli {

/// What a needle grid found, as `niah` and `compare` report it.
struct NiahReport {
  eval::NiahGrid grid;
  std::vector<eval::NiahSummary> summaries;
  Facts facts;  ///< what was hidden and asked
};

/// A row a contender: kept bytes, ROUGE-1 by length and in all, exact answers, with 95 % intervals.
Table niah_table(const NiahReport& report);
nlohmann::ordered_json niah_json(const NiahReport& report);

}  // namespace windowkv::cli
