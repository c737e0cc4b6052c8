#include "eval/task_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "eval/json_row.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

TaskRow read_row(std::string_view line) {
  const auto row = json_row(line);
  for (const char* field : {"text", "label"})
    if (!row.contains(field))
      throw Error(fmt::format("no field \"{}\"; a line is {{\"text\", \"label\", \"source\"}}", field));
  TaskRow out{text_field(row, "text"), parse_task(text_field(row, "label")), "unknown"};
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
