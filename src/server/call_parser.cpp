#include "server/call_parser.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "server/call_formats.h"
#include "server/json.h"
#include "server/random_id.h"
#include "support/blanks.h"
#include "support/bounded_json.h"
#include "windowkv/error.h"

namespace windowkv::server {

namespace {

constexpr std::string_view kFence = "```json";
/// Between and behind calls.
constexpr std::array<std::string_view, 11> kClosings = {"</tool_call>",
                                                        "</seed:tool_call>",
                                                        "</minimax:tool_call>",
                                                        "</tools>",
                                                        "</function_call>",
                                                        "<|call|>",
                                                        "```",
                                                        ";",
                                                        ",",
                                                        "]",
                                                        "}"};
/// Between a name and its arguments: Mistral's, and gpt-oss's.
constexpr std::array<std::string_view, 6> kBeforeArguments = {"[ARGS]",        "<|channel|>", "commentary",
                                                              "<|constrain|>", "json",        "<|message|>"};

/// The first place from `at` on that is not blank, or the end.
size_t behind_blanks(std::string_view text, size_t at) {
  return std::min(text.find_first_not_of(kBlanks, at), text.size());
}

/// Whether the text may go on to begin with the mark, but does not yet.
bool is_beginning(std::string_view text, std::string_view mark) {
  return text.size() < mark.size() && mark.starts_with(text);
}

/// nullopt for what is no JSON.
std::optional<Json> json_of(std::string_view text) {
  try {
    return parse_bounded_json(text);
  } catch (const Error&) {
    return std::nullopt;
  }
}

/// Arguments as text; nullopt for what is no object.
std::optional<std::string> arguments_of(const Json& json) {
  if (json.is_object()) return json.dump();
  if (!json.is_string()) return std::nullopt;
  const auto inner = json_of(json.get_ref<const std::string&>());
  return inner && inner->is_object() ? std::optional(inner->dump()) : std::nullopt;
}

/// `needs_arguments`: else a call without has none.
std::optional<ToolCall> call_of(const Json& json, bool needs_arguments) {
  if (!json.is_object()) return std::nullopt;
  const auto name = json.find("name");
  if (name == json.end() || !name->is_string()) return std::nullopt;
  for (const char* key : {"arguments", "parameters"})
    if (const auto it = json.find(key); it != json.end()) {
      auto arguments = arguments_of(*it);
      if (!arguments) return std::nullopt;
      return ToolCall{random_call_id(), name->get<std::string>(), std::move(*arguments)};
    }
  if (needs_arguments) return std::nullopt;
  return ToolCall{random_call_id(), name->get<std::string>(), "{}"};
}

}  // namespace

CallParser::Found CallParser::push(std::string_view text) {
  Found found;
  held_ += text;
  while (advance(found)) {
  }
  return found;
}

CallParser::Found CallParser::finish() {
  Found found;
  const auto rest = std::string_view(held_).substr(behind_blanks(held_, 0));
  // A call that the answer's end cut off is no text where others have come.
  const bool cut = candidate_.has_value() || rest.empty() || rest == kFence.substr(0, 3);
  if (!any_ || !cut) release(found, held_.size());
  held_.clear();
  candidate_.reset();
  return found;
}

void CallParser::release(Found& found, size_t bytes) {
  found.text.append(held_, 0, bytes);
  held_.erase(0, bytes);
  searched_ -= std::min(searched_, bytes);
}

/// Whether there is more to do with what is held.
bool CallParser::advance(Found& found) {
  if (!candidate_) return quiet_ ? advance_quietly() : advance_in_text(found);
  std::vector<ToolCall> calls;
  const auto matched = match(*candidate_, calls);
  if (matched == Match::kMore) return false;
  if (matched == Match::kNo) {
    searched_ = candidate_->begin + 1;
    quiet_ = false;
  } else {
    held_.erase(0, candidate_->at);
    searched_ = 0;
    for (auto& call : calls) {
      if (any_ && !parallel_) break;
      found.calls.push_back(std::move(call));
      any_ = true;
    }
    quiet_ = true;
  }
  candidate_.reset();
  return true;
}

/// At the beginning and behind calls.
bool CallParser::advance_quietly() {
  const auto first = behind_blanks(held_, 0);
  const auto rest = std::string_view(held_).substr(first);
  if (rest.empty()) return false;
  for (const auto& mark : call_marks()) {
    if (is_beginning(rest, mark)) return false;
    if (!rest.starts_with(mark)) continue;
    candidate_ = {.begin = first, .at = first + mark.size(), .marked = mark != kFence};
    return true;
  }
  if (any_)
    for (const auto closing : kClosings) {
      if (is_beginning(rest, closing)) return false;
      if (!rest.starts_with(closing)) continue;
      held_.erase(0, first + closing.size());
      return true;
    }
  if (rest.front() == '{' || rest.front() == '[') {
    candidate_ = {.begin = first, .at = first};
    return true;
  }
  if (any_) held_.erase(0, first);
  quiet_ = false;
  return true;
}

bool CallParser::advance_in_text(Found& found) {
  size_t begin = std::string::npos;
  for (const auto& mark : call_marks())
    if (const auto at = held_.find(mark, searched_); at < begin) {
      begin = at;
      candidate_ = {.begin = at, .at = at + mark.size(), .marked = mark != kFence};
    }
  size_t end = begin;
  if (!candidate_) {
    end = held_.size();
    // What may yet become a mark.
    size_t longest = 0;
    for (const auto& mark : call_marks()) longest = std::max(longest, mark.size());
    for (size_t n = std::min(longest, held_.size() - std::min(searched_, held_.size())); n > 0; --n)
      if (std::ranges::any_of(call_marks(), [&](const std::string& mark) {
            return is_beginning(std::string_view(held_).substr(held_.size() - n), mark);
          })) {
        end = held_.size() - n;
        break;
      }
  }
  // White space before a call is not part of the text.
  const auto last = held_.find_last_not_of(kBlanks, end == 0 ? 0 : end - 1);
  const auto text = end == 0 || last == std::string::npos ? 0 : last + 1;
  release(found, text);
  if (!candidate_) return false;
  candidate_->begin -= text;
  candidate_->at -= text;
  return true;
}

/// Finds where the JSON begins, behind a name or not.
Match CallParser::find_json(Candidate& c) const {
  const std::string_view text = held_;
  c.at = behind_blanks(text, c.at);
  if (c.marked && c.name.empty() && c.at < text.size() && is_name_character(text[c.at])) {
    const auto end =
        std::find_if_not(text.begin() + static_cast<ptrdiff_t>(c.at), text.end(), is_name_character);
    if (end == text.end()) return Match::kMore;
    c.name = text.substr(c.at, static_cast<size_t>(end - text.begin()) - c.at);
    c.at += c.name.size();
  }
  for (bool again = !c.name.empty(); again;) {
    c.at = behind_blanks(text, c.at);
    again = false;
    for (const auto mark : kBeforeArguments) {
      const auto rest = text.substr(c.at);
      if (is_beginning(rest, mark)) return Match::kMore;
      if (!rest.starts_with(mark)) continue;
      c.at += mark.size();
      again = true;
    }
  }
  if (c.at == text.size()) return Match::kMore;
  if (text[c.at] != '{' && (text[c.at] != '[' || !c.name.empty())) return Match::kNo;
  c.json = c.at;
  return Match::kYes;
}

/// Whether JSON that no mark announces begins as a call does: most JSON in answers is none, and need not be
/// held back.
Match CallParser::may_be_call(const Candidate& c) const {
  constexpr std::array<std::string_view, 4> kKeys = {R"("name")", R"("arguments")", R"("parameters")",
                                                     R"("type")"};
  const std::string_view text = held_;
  auto at = *c.json;
  if (text[at] == '[') at = behind_blanks(text, at + 1);
  if (at == text.size()) return Match::kMore;
  while (at < text.size() && text[at] == '{') at = behind_blanks(text, at + 1);
  const auto key = text.substr(at);
  for (const auto known : kKeys) {
    if (key.starts_with(known)) return Match::kYes;
    if (is_beginning(key, known)) return Match::kMore;
  }
  return Match::kNo;
}

Match CallParser::match(Candidate& c, std::vector<ToolCall>& calls) const {
  if (c.marked && !c.json && c.name.empty()) {
    ToolCall call;
    size_t size = 0;
    const auto tagged = read_tagged_call(std::string_view(held_).substr(c.begin), tools_, call, size);
    if (tagged == Match::kMore) return tagged;
    if (tagged == Match::kYes) {
      c.at = c.begin + size;
      calls.push_back(std::move(call));
      return tagged;
    }
  }
  if (!c.json)
    if (const auto found = find_json(c); found != Match::kYes) return found;
  if (!c.marked)
    if (const auto may = may_be_call(c); may != Match::kYes) return may;
  for (; c.at < held_.size(); ++c.at) {
    const char ch = held_[c.at];
    // Qwen2.5-Coder's template shows calls in doubled braces, and the model closes one of them or both.
    if (c.depth == 1 && c.at == *c.json + 1 && ch == '{') {
      c.json = c.at;
      continue;
    }
    if (c.in_string) {
      if (!c.escaped && ch == '"') c.in_string = false;
      c.escaped = !c.escaped && ch == '\\';
      continue;
    }
    if (ch == '"') c.in_string = true;
    if (ch == '{' || ch == '[') ++c.depth;
    if ((ch == '}' || ch == ']') && --c.depth == 0) {
      ++c.at;
      return calls_of(c, calls) ? Match::kYes : Match::kNo;
    }
  }
  return Match::kMore;
}

bool CallParser::calls_of(const Candidate& c, std::vector<ToolCall>& calls) const {
  const auto json = json_of(std::string_view(held_).substr(*c.json, c.at - *c.json));
  if (!json) return false;
  const auto add = [&](std::optional<ToolCall> call) {
    if (!call || std::ranges::find(tools_, call->name, &Tool::name) == tools_.end()) return false;
    calls.push_back(std::move(*call));
    return true;
  };
  if (!c.name.empty()) return add(ToolCall{random_call_id(), c.name, json->dump()});
  if (!json->is_array()) return add(call_of(*json, /*needs_arguments=*/!c.marked));
  return !json->empty() &&
         std::ranges::all_of(*json, [&](const Json& one) { return add(call_of(one, !c.marked)); });
}

}  // namespace windowkv::server
