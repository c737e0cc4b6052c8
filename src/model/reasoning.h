#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "windowkv/vocab.h"

namespace windowkv {

/// How a family of models writes what it thinks before it answers.
struct ReasoningFormat {
  std::string_view told_by;  ///< text that is in such chat templates; empty: in any
  std::string_view begin, end;
  /// What may stand before the answer, one after the other, and is no part of it.
  std::array<std::string_view, 2> leads = {};
};

/// The format of the models that have this chat template.
const ReasoningFormat& reasoning_format(std::string_view chat_template);

/// Control tokens in the marks of such an answer, which must be spelled out for the marks to be seen.
std::vector<Token> reasoning_tokens(const ReasoningFormat& format, const Vocab& vocab);

/// Whether a prompt ends where the model's reasoning has begun.
bool ends_in_reasoning(const ReasoningFormat& format, std::string_view prompt);

/// Parts an answer, as it comes, into what the model thinks and what it says. Reasoning is at the beginning
/// or not at all, without white space at its ends; what might become a mark is held back.
class ReasoningSplitter {
 public:
  /// `inside`: the prompt ended in reasoning.
  ReasoningSplitter(const ReasoningFormat& format, bool inside)
      : format_(format), place_(inside ? Place::kInside : Place::kBefore) {}

  struct Parts {
    std::string reasoning, content;
  };
  Parts push(std::string_view text);
  /// What was held back, once nothing follows.
  Parts finish();

 private:
  enum class Place { kBefore, kInside, kBehind, kContent };
  bool advance(Parts& parts);
  void give_reasoning(Parts& parts, size_t bytes);

  const ReasoningFormat& format_;
  Place place_;
  std::string held_;
  bool thought_ = false;  ///< some reasoning was given
  size_t lead_ = 0;       ///< leads that were looked for
};

/// A whole answer.
ReasoningSplitter::Parts split_reasoning(const ReasoningFormat& format, std::string_view answer, bool inside);

}  // namespace windowkv
