#pragma once

#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "windowkv/error.h"

namespace windowkv::eval {

/// Results cannot be written: no fault of what is run, and a reason to stop.
class LogError : public Error {
 public:
  using Error::Error;
};

/// Results as JSON lines, one a sample, appended as they come. A run that was killed is taken up where it
/// stopped: a line cut off in the middle is dropped, whole lines are known by their "key". A pipe or a device
/// takes lines too, but what it took is not known to a later run.
class JsonlLog {
 public:
  /// Opens or makes the file; one that was made goes again if it gets no rows. Throws Error where it cannot
  /// be written, or holds lines that are not this program's.
  explicit JsonlLog(const std::string& path);
  ~JsonlLog();
  JsonlLog(const JsonlLog&) = delete;
  JsonlLog& operator=(const JsonlLog&) = delete;

  /// Whether text may be a line, or the beginning of one, that this class has written.
  static bool begins_row(std::string_view text);

  /// Whether a later run can go on from it.
  bool resumable() const { return resumable_; }
  bool has(const std::string& key) const { return index_.contains(key); }
  /// The row with that key, null if there is none; valid until the next append().
  const nlohmann::ordered_json* find(const std::string& key) const {
    const auto found = index_.find(key);
    return found == index_.end() ? nullptr : &rows_[found->second];
  }
  /// `row` must have a string "key" that the file does not have yet. The line is on disk when this returns.
  /// Throws LogError where the write fails.
  void append(nlohmann::ordered_json row);
  /// All rows, those of earlier runs first.
  const std::vector<nlohmann::ordered_json>& rows() const { return rows_; }

 private:
  void read_rows(const std::string& file);

  std::string path_;
  std::string made_;  // empty: the file was there
  bool resumable_ = true;
  std::FILE* file_ = nullptr;
  std::vector<nlohmann::ordered_json> rows_;
  std::map<std::string, size_t> index_;
};

[[noreturn]] void fail_damaged(const nlohmann::ordered_json& row);

/// What `read` makes of a row of a log. Throws Error where the row lacks what it asks for: files are edited,
/// and other programs write such lines too.
template <typename Read>
auto read_row(const nlohmann::ordered_json& row, Read read) {
  try {
    return read(row);
  } catch (const nlohmann::json::exception&) {
    fail_damaged(row);
  }
}

}  // namespace windowkv::eval
