#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "eval/stats.h"

/// What the reports of several evaluations have in common.
namespace windowkv::cli {

using Table = std::vector<std::vector<std::string>>;  ///< a header row, then rows
using Facts = std::vector<std::pair<std::string, std::string>>;

std::string one_digit(double value);                         ///< "-" for NaN
std::string two_digits(const std::optional<double>& value);  ///< "-" for none
std::string percent(double share);                           ///< "12.0 %"; "-" for NaN
std::string with_interval(const eval::Estimate& e);          ///< "40.5 [37.3, 43.8]"
std::string interval_text(const eval::Estimate& e);          ///< "37.3 to 43.8"
nlohmann::ordered_json estimate_json(const eval::Estimate& e);
nlohmann::ordered_json facts_json(const Facts& facts);
std::string markdown_table(const Table& rows);

}  // namespace windowkv::cli
