#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/tagged_calls.h"

namespace windowkv::server {

/// Finds calls of tools in an answer as it comes. A call is a JSON object {"name": ..., "arguments": {...}}
/// ("parameters" will do), or an array of such, behind one of call_marks(), or bare where nothing but calls
/// stands before it; or NAME{...} behind a mark; or its arguments stand between tags (tagged_calls.h). What
/// names no tool, is no JSON, or is cut off, is text. A call is given once it is complete, and what might
/// become one is held back.
class CallParser {
 public:
  /// `tools`: what may be called. `parallel`: whether there may be several calls; else those after the first
  /// are dropped.
  CallParser(std::vector<Tool> tools, bool parallel) : tools_(std::move(tools)), parallel_(parallel) {}

  /// What came of more of the answer.
  struct Found {
    std::string text;
    std::vector<ToolCall> calls;
  };
  Found push(std::string_view text);
  /// What was held back, once nothing follows.
  Found finish();

 private:
  /// Something in held_ that may be calls.
  struct Candidate {
    size_t begin = 0;     ///< of the mark, or of the bare JSON
    size_t at = 0;        ///< looked at to here
    bool marked = false;  ///< behind a mark that is written for calls alone
    std::string name = {};
    std::optional<size_t> json = {};  ///< where it begins
    int depth = 0;
    bool in_string = false, escaped = false;
  };
  bool advance(Found& found);
  bool advance_quietly();
  bool advance_in_text(Found& found);
  void release(Found& found, size_t bytes);
  Match match(Candidate& c, std::vector<ToolCall>& calls) const;
  Match find_json(Candidate& c) const;
  Match may_be_call(const Candidate& c) const;
  bool calls_of(const Candidate& c, std::vector<ToolCall>& calls) const;

  std::vector<Tool> tools_;
  bool parallel_;
  std::string held_;  ///< not decided yet
  std::optional<Candidate> candidate_;
  bool quiet_ = true;    ///< nothing but calls and white space came before
  bool any_ = false;     ///< there were calls
  size_t searched_ = 0;  ///< no candidate begins before, in held_
};

}  // namespace windowkv::server
