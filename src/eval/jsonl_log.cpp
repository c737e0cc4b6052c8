#include "eval/jsonl_log.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "support/file.h"
#include "support/output_target.h"
#include "windowkv/error.h"

namespace windowkv::eval {

using nlohmann::ordered_json;

JsonlLog::JsonlLog(const std::string& path) : path_(path) {
  const auto target = OutputTarget::of(path);
  resumable_ = !target.stream;
  if (target.stream) {
    file_ = fdopen(target.open_stream(), "wb");
    return;
  }
  if (std::filesystem::exists(target.path))
    read_rows(target.path);
  else
    made_ = target.path;
  file_ = std::fopen(target.path.c_str(), "ab");
  if (file_ == nullptr) throw Error(fmt::format("{}: cannot write: {}", path, std::strerror(errno)));
}

bool JsonlLog::begins_row(std::string_view text) {
  constexpr std::string_view kBegin = "{\"key\":\"";
  return kBegin.starts_with(text.substr(0, kBegin.size()));
}

JsonlLog::~JsonlLog() {
  if (file_ == nullptr) return;
  std::fclose(file_);
  if (rows_.empty() && !made_.empty()) std::remove(made_.c_str());
}

void JsonlLog::read_rows(const std::string& file) {
  const auto content = read_file(file);
  size_t start = 0, number = 1;
  const auto refuse = [&] {
    throw Error(
        fmt::format("{}: line {} is not a result of an earlier run; choose another file", path_, number));
  };
  for (size_t end; (end = content.find('\n', start)) != std::string::npos; start = end + 1, ++number) {
    auto row = ordered_json::parse(content.begin() + static_cast<std::ptrdiff_t>(start),
                                   content.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (!row.is_object() || !row.contains("key") || !row["key"].is_string()) refuse();
    index_[row["key"]] = rows_.size();
    rows_.push_back(std::move(row));
  }
  if (start == content.size()) return;
  if (!begins_row(std::string_view(content).substr(start))) refuse();  // no line of ours that was cut off
  std::filesystem::resize_file(file, start);
}

void JsonlLog::append(ordered_json row) {
  const auto line = row.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
  if (std::fwrite(line.data(), 1, line.size(), file_) != line.size() || std::fflush(file_) != 0)
    throw LogError(fmt::format("{}: cannot write: {}", path_, std::strerror(errno)));
  index_[row.at("key")] = rows_.size();
  rows_.push_back(std::move(row));
}

void fail_damaged(const ordered_json& row) {
  throw Error(fmt::format("the result \"{}\" of an earlier run is damaged; delete its line",
                          row.at("key").get<std::string>()));
}

}  // namespace windowkv::eval
