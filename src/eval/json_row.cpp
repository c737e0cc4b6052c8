#include "eval/json_row.h"

#include <fmt/format.h>

#include "support/utf8.h"
#include "windowkv/error.h"

namespace windowkv::eval {

nlohmann::json json_row(std::string_view line) {
  auto row = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (row.is_object()) return row;
  if (const auto at = utf8_first_error(line); at != std::string_view::npos)
    throw Error(
        fmt::format("not UTF-8 text (byte {} of the line); convert it first, for example with iconv", at));
  throw Error("not a JSON object");
}

std::string text_field(const nlohmann::json& row, const char* name) {
  const auto found = row.find(name);
  if (found == row.end()) throw Error(fmt::format("no field \"{}\"", name));
  if (!found->is_string()) throw Error(fmt::format("\"{}\" is not a string", name));
  return found->get<std::string>();
}

}  // namespace windowkv::eval
