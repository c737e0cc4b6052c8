#include "eval/calibration_prompts.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "eval/json_row.h"
#include "eval/random.h"
#include "eval/sentences.h"
#include "eval/words.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

constexpr size_t kFewestTokens = 16;

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

/// Where sentences end.
std::vector<size_t> sentence_ends(std::string_view text) {
  std::vector<size_t> ends;
  for (size_t at = 1; at <= text.size(); ++at)
    if (ends_sentence(text, at)) ends.push_back(at);
  return ends;
}

/// What the text begins with, of about `length` tokens.
std::string_view beginning(const Vocab& vocab, std::string_view text, int64_t length) {
  // A token is at most some bytes; twice as many until there are enough of them.
  std::vector<Token> tokens;
  size_t bytes = 4 * static_cast<size_t>(length);
  for (;; bytes *= 2) {
    tokens = vocab.tokenize(text.substr(0, bytes));
    if (bytes >= text.size() || static_cast<int64_t>(tokens.size()) > length) break;
  }
  text = text.substr(0, bytes);
  if (static_cast<int64_t>(tokens.size()) <= length) return text;
  tokens.resize(static_cast<size_t>(length));
  text = text.substr(0, vocab.text(tokens).size());
  size_t end = text.size();
  while (end > text.size() / 2 && !ends_sentence(text, end)) --end;
  if (end > text.size() / 2) return text.substr(0, end);
  end = text.size();
  while (end > 0 && !is_blank(text[end - 1])) --end;
  return end > 0 ? text.substr(0, end) : text;
}

/// The words of a sentence up to about its half, and no more than eight.
std::string_view first_half(std::string_view sentence) {
  size_t words = 0, end = 0;
  for (size_t at = 1; at < sentence.size() && words < 8 && at <= sentence.size() / 2; ++at)
    if (is_blank(sentence[at]) && !is_blank(sentence[at - 1])) {
      ++words;
      end = at;
    }
  return sentence.substr(0, end);
}

std::string continue_quotation(std::string_view piece, Random& random) {
  const auto ends = sentence_ends(piece);
  std::vector<std::string_view> starts;
  for (size_t i = 0; i + 1 < ends.size(); ++i) {
    const auto sentence = trimmed(piece.substr(ends[i], ends[i + 1] - ends[i]));
    const auto start = first_half(sentence);
    // Long enough to tell which sentence is meant, and the only one that begins so.
    if (std::count(start.begin(), start.end(), ' ') >= 3 && piece.find(start) == piece.rfind(start))
      starts.push_back(start);
  }
  if (starts.empty()) return "How does the text begin? Quote its first sentences word for word.";
  return fmt::format(
      "How does the sentence of the text go on that begins with \"{}\"? Quote it word for word.",
      starts[random.below(starts.size())]);
}

struct Asked {
  std::string text, question;
};

/// Facts of one form between the text's sentences; one of them is asked for.
Asked hide_facts(std::string_view piece, Random& random) {
  constexpr size_t kFacts = 4;
  static const std::vector<std::string> owners = {"baker",  "captain", "gardener", "teacher",
                                                  "miller", "painter", "sailor",   "tailor"};
  const auto who = random.sample(static_cast<int64_t>(owners.size()), kFacts);
  auto ends = sentence_ends(piece);
  if (ends.empty()) ends.push_back(piece.size());
  std::string text;
  size_t from = 0;
  for (size_t i = 0; i < kFacts; ++i) {
    // One somewhere in each part of the text.
    const size_t part = ends.size() * i / kFacts;
    const size_t last = std::max(part + 1, ends.size() * (i + 1) / kFacts);
    const size_t at = std::max(from, ends[std::min(ends.size() - 1, part + random.below(last - part))]);
    text += piece.substr(from, at - from);
    text += fmt::format(" The {}'s box is kept in {} {} and its number is {}.",
                        owners[static_cast<size_t>(who[i])], random.below(2) == 0 ? "room" : "cellar",
                        random.between(11, 99), random.between(100000, 999999));
    from = at;
  }
  text += piece.substr(from);
  return {text, fmt::format("Where is the {}'s box kept, and what is its number?",
                            owners[static_cast<size_t>(who[random.below(kFacts)])])};
}

}  // namespace

std::vector<Token> message_prompt(const Vocab& vocab, const std::string& message) {
  if (!vocab.has_chat_template()) return vocab.tokenize(message);
  return vocab.tokenize(vocab.apply_chat_template({{"user", message}}));
}

std::vector<std::string> text_pieces(const Vocab& vocab, std::string_view text, int64_t length,
                                     int64_t limit) {
  text = trimmed(text);
  std::vector<std::string> all;
  for (size_t from = 0; from < text.size();) {
    const auto piece = beginning(vocab, text.substr(from), length);
    all.emplace_back(trimmed(piece));
    from += piece.size();
  }
  // What is left over at the end would be shorter than the others.
  if (all.size() > 1) all.pop_back();
  if (all.empty() || vocab.tokenize(all.front()).size() < kFewestTokens)
    throw Error(fmt::format("a text of fewer than {} tokens is too short to calibrate on", kFewestTokens));
  std::vector<std::string> pieces;
  const size_t count = std::min(all.size(), static_cast<size_t>(limit));
  for (size_t i = 0; i < count; ++i) pieces.push_back(std::move(all[i * all.size() / count]));
  return pieces;
}

std::vector<std::string> questions_about(const std::vector<std::string>& pieces) {
  Random random{4};
  std::vector<std::string> out;
  for (size_t i = 0; i < pieces.size(); ++i) {
    Asked asked{pieces[i], ""};
    switch (i % 4) {
      case 0:
        asked.question = continue_quotation(pieces[i], random);
        break;
      case 1:
        asked.question = "Summarize the text in a few sentences.";
        break;
      case 2:
        asked = hide_facts(pieces[i], random);
        break;
      default:
        asked.question =
            "Who or what does the text tell about, and what happens? List the main points in order.";
    }
    out.push_back(fmt::format("{}\n\nQuestion: {}", asked.text, asked.question));
  }
  return out;
}

std::vector<std::string> read_prompts(const std::string& path) {
  const auto content = read_text_file(path);
  std::vector<std::string> prompts;
  for (const auto& [number, line] : lines_of(content)) {
    const auto text = trimmed(line);
    if (text.front() != '{') {
      prompts.emplace_back(text);
      continue;
    }
    try {
      prompts.push_back(text_field(json_row(text), "prompt"));
    } catch (const Error& e) {
      throw Error(fmt::format("{}: line {}: {}", path, number, e.what()));
    }
  }
  if (prompts.empty()) throw Error(path + ": no prompt in it");
  return prompts;
}

}  // namespace windowkv::eval
