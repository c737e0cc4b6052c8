#include "model/reasoning.h"

#include <algorithm>

#include "support/blanks.h"

namespace windowkv {

namespace {

/// The first whose mark a template has is its own. New formats go here.
constexpr std::array kFormats = {
    // gpt-oss
    ReasoningFormat{.told_by = "<|channel|>analysis",
                    .begin = "<|channel|>analysis<|message|>",
                    .end = "<|end|>",
                    .leads = {"<|start|>assistant", "<|channel|>final<|message|>"}},
    // Gemma 4
    ReasoningFormat{.told_by = "<|channel>", .begin = "<|channel>thought", .end = "<channel|>"},
    ReasoningFormat{.told_by = "[THINK]", .begin = "[THINK]", .end = "[/THINK]"},
    ReasoningFormat{.told_by = "<seed:think>", .begin = "<seed:think>", .end = "</seed:think>"},
    ReasoningFormat{.told_by = "", .begin = "<think>", .end = "</think>"},
};

size_t blanks_before(std::string_view text) {
  return std::min(text.find_first_not_of(kBlanks), text.size());
}

/// Bytes without the blanks at the end.
size_t without_blanks(std::string_view text) {
  return text.find_last_not_of(kBlanks) + 1;
}

/// Bytes at the end of the text that the mark may begin with.
size_t beginning_of(std::string_view mark, std::string_view text) {
  for (size_t n = std::min(mark.size() - 1, text.size()); n > 0; --n)
    if (mark.starts_with(text.substr(text.size() - n))) return n;
  return 0;
}

}  // namespace

const ReasoningFormat& reasoning_format(std::string_view chat_template) {
  return *std::ranges::find_if(kFormats, [&](const ReasoningFormat& format) {
    return chat_template.find(format.told_by) != std::string_view::npos;
  });
}

std::vector<Token> reasoning_tokens(const ReasoningFormat& format, const Vocab& vocab) {
  std::vector<Token> found;
  for (const auto mark : {format.begin, format.end, format.leads[0], format.leads[1]}) {
    const auto tokens = vocab.control_tokens(mark);
    found.insert(found.end(), tokens.begin(), tokens.end());
  }
  return found;
}

bool ends_in_reasoning(const ReasoningFormat& format, std::string_view prompt) {
  return prompt.substr(0, without_blanks(prompt)).ends_with(format.begin);
}

ReasoningSplitter::Parts ReasoningSplitter::push(std::string_view text) {
  Parts parts;
  held_ += text;
  while (advance(parts)) {
  }
  return parts;
}

ReasoningSplitter::Parts ReasoningSplitter::finish() {
  Parts parts;
  if (place_ == Place::kInside)
    give_reasoning(parts, without_blanks(held_));
  else if (place_ != Place::kBehind || without_blanks(held_) > 0)
    parts.content = held_;
  held_.clear();
  return parts;
}

void ReasoningSplitter::give_reasoning(Parts& parts, size_t bytes) {
  const auto first = thought_ ? 0 : std::min(blanks_before(held_), bytes);
  parts.reasoning.append(held_, first, bytes - first);
  thought_ = thought_ || bytes > first;
  held_.erase(0, bytes);
}

/// Whether there is more to do with what is held.
bool ReasoningSplitter::advance(Parts& parts) {
  const auto rest = std::string_view(held_).substr(blanks_before(held_));
  switch (place_) {
    case Place::kBefore:
      if (rest.starts_with(format_.begin)) {
        held_.erase(0, held_.size() - rest.size() + format_.begin.size());
        place_ = Place::kInside;
        return true;
      }
      if (format_.begin.starts_with(rest)) return false;
      // Without reasoning the answer is as it is, but for what leads it.
      place_ = format_.leads[0].empty() ? Place::kContent : Place::kBehind;
      return true;
    case Place::kInside: {
      const auto end = held_.find(format_.end);
      if (end == std::string::npos) {
        const std::string_view sure(held_.data(), held_.size() - beginning_of(format_.end, held_));
        give_reasoning(parts, without_blanks(sure));
        return false;
      }
      give_reasoning(parts, without_blanks(std::string_view(held_).substr(0, end)));
      held_.erase(0, held_.find(format_.end) + format_.end.size());
      place_ = Place::kBehind;
      return true;
    }
    case Place::kBehind:
      for (; lead_ < format_.leads.size(); ++lead_) {
        const auto lead = format_.leads[lead_];
        if (lead.empty()) continue;
        if (rest.starts_with(lead)) {
          held_.erase(0, held_.size() - rest.size() + lead.size());
          ++lead_;
          return true;
        }
        if (lead.starts_with(rest)) return false;
      }
      if (rest.empty()) return false;
      held_.erase(0, held_.size() - rest.size());
      place_ = Place::kContent;
      return true;
    case Place::kContent:
      parts.content += held_;
      held_.clear();
      return false;
  }
  return false;
}

ReasoningSplitter::Parts split_reasoning(const ReasoningFormat& format, std::string_view answer,
                                         bool inside) {
  ReasoningSplitter splitter(format, inside);
  auto parts = splitter.push(answer);
  const auto rest = splitter.finish();
  return {parts.reasoning + rest.reasoning, parts.content + rest.content};
}

}  // namespace windowkv
