#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "windowkv/vocab.h"

/// Prompts that a calibration is measured on. No answers are needed: the full cache's own are what compressed
/// caches are compared along.
namespace windowkv::eval {

/// A user's message as a prompt: in the chat template where the model has one, else as it is.
std::vector<Token> message_prompt(const Vocab& vocab, const std::string& message);

/// Pieces of the text, `limit` of them at most, evenly from its start to its end, none overlapping. Each has
/// about `length` tokens (the last as many as there are) and ends with a sentence where one ends in its last
/// half. Throws Error for a text of fewer than 16 tokens.
std::vector<std::string> text_pieces(const Vocab& vocab, std::string_view text, int64_t length,
                                     int64_t limit);

/// Messages about pieces of text, half of them lookups (what a sentence goes on with; facts that were put in
/// between the text's sentences), half about the whole of it. The same for the same pieces.
std::vector<std::string> questions_about(const std::vector<std::string>& pieces);

/// The prompts of a file: one a line, or where the lines are JSON objects their "prompt". Blank lines do not
/// count. Throws Error with the line for JSON without one, and for a file without prompts.
std::vector<std::string> read_prompts(const std::string& path);

}  // namespace windowkv::eval
