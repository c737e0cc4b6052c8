#include "eval/task_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

TaskRow read_row(std::string_view line) {
  const auto row = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!row.is_object()) throw Error("not a JSON object");
  for (const char* field : {"text", "label"})
    if (!row.contains(field) || !row[field].is_string())
      throw Error(fmt::format("no string \"{}\"; a line is {{\"text\", \"label\", \"source\"}}", field));
  TaskRow out{row["text"].get<std::string>(), parse_task(row["label"].get<std::string>()), "unknown"};
  if (row.contains("source") && row["source"].is_string()) out.source = row["source"].get<std::string>();
  return out;
}

}  // namespace

std::vector<TaskRow> load_task_rows(std::span<const std::string> paths) {
  std::vector<TaskRow> rows;
  for (const auto& path : paths) {
    const auto content = read_file(path);
    for (const auto& [number, line] : lines_of(content)) {
      try {
        rows.push_back(read_row(line));
      } catch (const Error& e) {
        throw Error(fmt::format("{}:{}: {}", path, number, e.what()));
      }
    }
  }
  return rows;
}

std::string source_family(const std::string& source) {
  return source.substr(0, source.find('/'));
}

}  // namespace windowkv::eval
