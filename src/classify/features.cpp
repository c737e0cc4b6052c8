#include "classify/features.h"

#include <fmt/format.h>

#include <algorithm>

#include "classify/excerpt.h"
#include "classify/shape.h"
#include "support/hash.h"

namespace windowkv {

namespace {

using Names = std::vector<std::pair<uint32_t, std::string>>;

/// Families of features; the second of a pair is for the end of the prompt.
enum Kind : uint64_t {
  kWordAnywhere = 1,
  kWordAtEnd = 3,
  kWordNearEnd = 5,
  kPair = 7,
  kPairAtEnd = 9,
  kTriple = 11,
  kGappedPair = 13,
  kLetters = 15,
  kShape = 17,
  kOpening = 23,
  kOpeningAtEnd = 24,
  kOpeningPair = 26,
  kQuestionOpening = 27,
};

constexpr float kShapeValue = 2.0f;
constexpr float kLettersValue = 0.5f;
constexpr size_t kNear = 24;           // words
constexpr size_t kOpeningReach = 100;  // words from the end in which openings of sentences count
constexpr size_t kLongestQuestion = 40;

uint64_t mix(uint64_t x) {  // splitmix64's finalizer
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t hash_of(std::string_view text) {
  return fnv1a64_step(kFnvStart, text);
}

uint64_t hash_of(uint64_t first, uint64_t second) {
  return mix(first * 3 + second);
}

class Collector {
 public:
  explicit Collector(Names* names) : names_(names) {}

  /// `name` is called only where names are wanted.
  template <typename Name>
  void add(uint64_t kind, uint64_t hash, float value, Name&& name) {
    const auto bucket = static_cast<uint32_t>(mix(hash + kind * 0x9e3779b97f4a7c15u) >> (64 - kFeatureBits));
    features_.push_back({bucket, value});
    if (names_ != nullptr) names_->emplace_back(bucket, name());
  }

  /// Of the features that fall into one bucket the largest.
  std::vector<Feature> take() {
    std::sort(features_.begin(), features_.end(), [](const Feature& a, const Feature& b) {
      return a.bucket < b.bucket || (a.bucket == b.bucket && a.value > b.value);
    });
    features_.erase(std::unique(features_.begin(), features_.end(),
                                [](const Feature& a, const Feature& b) { return a.bucket == b.bucket; }),
                    features_.end());
    return std::move(features_);
  }

 private:
  std::vector<Feature> features_;
  Names* names_;
};

/// The words of one end and what they are features of.
class End {
 public:
  End(Collector& out, const std::string& text, bool head)
      : out_(out),
        words_(split_excerpt(text)),
        place_(head ? "start" : "end"),
        which_(head ? 0 : 1),
        head_(head) {
    for (const auto& word : words_) hashes_.push_back(hash_of(word.text));
  }

  void add_all() {
    for (size_t i = 0; i < words_.size(); ++i) {
      add_runs(i);
      if (words_[i].kind != Word::Kind::kWord) continue;
      add_letters(i);
      if (opens_sentence(i) && distance(i) < kOpeningReach) add_opening(i);
    }
  }

 private:
  size_t distance(size_t i) const { return head_ ? i : words_.size() - 1 - i; }

  /// Words near the end of the prompt are likelier to be the instruction's.
  float value(size_t i) const {
    const size_t d = distance(i);
    if (d < 48) return 1.0f;
    return d < 100 ? 0.6f : 0.35f;
  }

  std::string shown(size_t i) const { return words_[i].kind == Word::Kind::kLineEnd ? "⏎" : words_[i].text; }
  std::string shown(size_t i, size_t count) const {
    std::string out = shown(i);
    for (size_t k = 1; k < count; ++k) out += fmt::format(" {}", shown(i + k));
    return out;
  }

  void add_runs(size_t i) {
    const float v = value(i);
    const uint64_t one = hashes_[i];
    out_.add(kWordAnywhere, one, v, [&] { return fmt::format("\"{}\"", shown(i)); });
    out_.add(kWordAtEnd + which_, one, v, [&] { return fmt::format("\"{}\" at the {}", shown(i), place_); });
    if (distance(i) < kNear)
      out_.add(kWordNearEnd + which_, one, 1,
               [&] { return fmt::format("\"{}\" near the {}", shown(i), place_); });
    if (i + 1 == words_.size()) return;
    const uint64_t two = hash_of(one, hashes_[i + 1]);
    out_.add(kPair, two, v, [&] { return fmt::format("\"{}\"", shown(i, 2)); });
    out_.add(kPairAtEnd + which_, two, v,
             [&] { return fmt::format("\"{}\" at the {}", shown(i, 2), place_); });
    if (i + 2 == words_.size()) return;
    const uint64_t last = hashes_[i + 2];
    out_.add(kTriple, hash_of(two, last), v, [&] { return fmt::format("\"{}\"", shown(i, 3)); });
    out_.add(kGappedPair, hash_of(one, last), v,
             [&] { return fmt::format("\"{} … {}\"", shown(i), shown(i + 2)); });
  }

  void add_letters(size_t i) {
    if (words_[i].text.size() < 4) return;
    const std::string padded = fmt::format("^{}$", words_[i].text);
    for (size_t length = 4; length <= 5; ++length)
      for (size_t k = 0; k + length <= padded.size(); ++k)
        out_.add(kLetters, hash_of(std::string_view(padded).substr(k, length)), kLettersValue * value(i),
                 [&] { return fmt::format("letters \"{}\"", padded.substr(k, length)); });
  }

  bool opens_sentence(size_t i) const {
    if (i == 0 || words_[i - 1].kind == Word::Kind::kLineEnd) return true;
    const auto& before = words_[i - 1].text;
    return before == "." || before == "?" || before == "!" || before == ":";
  }

  bool asks(size_t first) const {
    for (size_t i = first; i < words_.size() && i < first + kLongestQuestion; ++i) {
      const auto& text = words_[i].text;
      if (text == "?" || text == "？") return true;
      if (words_[i].kind == Word::Kind::kLineEnd || text == "." || text == ":") return false;
    }
    return false;
  }

  void add_opening(size_t i) {
    const float v = value(i);
    const bool pair = i + 1 < words_.size();
    const uint64_t one = hashes_[i];
    const uint64_t two = pair ? hash_of(one, hashes_[i + 1]) : 0;
    out_.add(kOpening, one, v, [&] { return fmt::format("a sentence begins \"{}\"", shown(i)); });
    out_.add(kOpeningAtEnd + which_, one, v,
             [&] { return fmt::format("a sentence begins \"{}\" at the {}", shown(i), place_); });
    if (pair)
      out_.add(kOpeningPair, two, v, [&] { return fmt::format("a sentence begins \"{}\"", shown(i, 2)); });
    if (!asks(i)) return;
    out_.add(kQuestionOpening, one, v, [&] { return fmt::format("a question begins \"{}\"", shown(i)); });
    if (pair)
      out_.add(kQuestionOpening, two, v,
               [&] { return fmt::format("a question begins \"{}\"", shown(i, 2)); });
  }

  Collector& out_;
  std::vector<Word> words_;
  std::vector<uint64_t> hashes_;
  const char* place_;
  uint64_t which_;
  bool head_;
};

}  // namespace

std::vector<Feature> extract_features(std::string_view text, Names* names) {
  Collector out(names);
  const auto excerpt = take_excerpt(text);
  End(out, excerpt.head, true).add_all();
  End(out, excerpt.tail, false).add_all();
  for (const auto& fact : describe_shape(text, excerpt))
    out.add(kShape, hash_of(fact), kShapeValue, [&] { return fact; });
  return out.take();
}

}  // namespace windowkv
