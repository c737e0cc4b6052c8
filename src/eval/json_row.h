#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace windowkv::eval {

/// A line of a JSON lines file. Throws Error for what is no JSON object, or not UTF-8, which would be none
/// either.
nlohmann::json json_row(std::string_view line);

/// The text of a field. Throws Error where the row has none of that name, or it is no string.
std::string text_field(const nlohmann::json& row, const char* name);

}  // namespace windowkv::eval
