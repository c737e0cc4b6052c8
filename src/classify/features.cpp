#include "classify/features.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "classify/excerpt.h"
#include "classify/shape.h"

namespace windowkv {

namespace {

uint64_t mix(uint64_t x) {  // splitmix64's finalizer
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t hash_of(std::string_view text) {  // FNV-1a, 64 bits
  uint64_t hash = 14695981039346656037u;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211u;
  return hash;
}

class Collector {
 public:
  explicit Collector(std::vector<std::pair<uint32_t, std::string>>* names) : names_(names) {}

  /// `kind` tells families of features apart; `describe` is asked for the name only where names are wanted.
  template <typename Describe>
  void add(uint64_t kind, uint64_t hash, float value, Describe&& describe) {
    const auto bucket = static_cast<uint32_t>(mix(hash + kind * 0x9e3779b97f4a7c15u) >> (64 - kFeatureBits));
    features_.push_back({bucket, value});
    if (names_ != nullptr) names_->emplace_back(bucket, describe());
  }

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
  std::vector<std::pair<uint32_t, std::string>>* names_;
};

}  // namespace

namespace {
enum Kind : uint64_t {
  kAny = 1,
  kEnd = 3,
  kNear = 5,
  kBigram = 7,
  kEndBigram = 9,
  kTrigram = 11,
  kSkip = 13,
  kChars = 15,
  kShape = 17,
  kVeryNear = 19,
  kEndTri = 21,
  kFirst = 23
};

float near_value(size_t distance) {
  return distance < 48 ? 1.0f : distance < 100 ? 0.6f : 0.35f;
}

void add_end(Collector& out, const std::vector<Word>& words, bool head) {
  const size_t n = words.size();
  const uint64_t end = head ? 0 : 1;
  const char* name = head ? "start" : "end";
  std::vector<uint64_t> hashes(n);
  for (size_t i = 0; i < n; ++i) hashes[i] = hash_of(words[i].text);
  for (size_t i = 0; i < n; ++i) {
    const size_t distance = head ? i : n - 1 - i;
    const float value = near_value(distance);
    const auto& w = words[i].text;
    auto join = [&](size_t count) {
      std::string s;
      for (size_t k = 0; k < count; ++k)
        s += (k ? " " : "") + (words[i + k].text == "\n" ? std::string("⏎") : words[i + k].text);
      return s;
    };
    out.add(kAny, hashes[i], value, [&] { return fmt::format("\"{}\"", join(1)); });
    out.add(kEnd + end, hashes[i], value, [&] { return fmt::format("\"{}\" at the {}", join(1), name); });
    if (distance < 24)
      out.add(kNear + end, hashes[i], 1.0f, [&] { return fmt::format("\"{}\" near the {}", join(1), name); });
    if (i + 1 < n) {
      const uint64_t two = mix(hashes[i] * 3 + hashes[i + 1]);
      out.add(kBigram, two, value, [&] { return fmt::format("\"{}\"", join(2)); });
      out.add(kEndBigram + end, two, value, [&] { return fmt::format("\"{}\" at the {}", join(2), name); });
    }
    if (i + 2 < n) {
      const uint64_t three = mix(mix(hashes[i] * 3 + hashes[i + 1]) * 5 + hashes[i + 2]);
      out.add(kTrigram, three, value, [&] { return fmt::format("\"{}\"", join(3)); });
      out.add(kSkip, mix(hashes[i] * 7 + hashes[i + 2]), value,
              [&] { return fmt::format("\"{} … {}\"", w, words[i + 2].text); });
    }
    const bool starts = i == 0 || words[i - 1].kind == Word::Kind::kLineEnd || words[i - 1].text == "." ||
                        words[i - 1].text == "?" || words[i - 1].text == "!" || words[i - 1].text == ":";
    if (starts && words[i].kind == Word::Kind::kWord && distance < 100) {
      out.add(kFirst, hashes[i], 1.0f * value, [&] { return fmt::format("a sentence begins \"{}\"", w); });
      out.add(kFirst + 1 + end, hashes[i], 1.0f * value,
              [&] { return fmt::format("a sentence begins \"{}\" at the {}", w, name); });
      if (i + 1 < n)
        out.add(kFirst + 3, mix(hashes[i] * 3 + hashes[i + 1]), 1.0f * value,
                [&] { return fmt::format("a sentence begins \"{}\"", join(2)); });
      // the question it is
      for (size_t k = i; k < n && k < i + 40 && words[k].kind != Word::Kind::kLineEnd &&
                         words[k].text != "." && words[k].text != ":";
           ++k)
        if (words[k].text == "?" || words[k].text == "？") {
          out.add(kFirst + 4, hashes[i], 1.0f * value,
                  [&] { return fmt::format("a question begins \"{}\"", w); });
          if (i + 1 < n)
            out.add(kFirst + 4, mix(hashes[i] * 3 + hashes[i + 1]), 1.0f * value,
                    [&] { return fmt::format("a question begins \"{}\"", join(2)); });
          break;
        }
    }
    if (words[i].kind == Word::Kind::kWord && w.size() >= 4) {
      const std::string padded = "^" + w + "$";
      for (size_t length = 4; length <= 5; ++length)
        for (size_t k = 0; k + length <= padded.size(); ++k)
          out.add(kChars, hash_of(std::string_view(padded).substr(k, length)), 0.5f * value,
                  [&] { return fmt::format("letters \"{}\"", padded.substr(k, length)); });
    }
  }
}
}  // namespace

std::vector<Feature> extract_features(std::string_view text,
                                      std::vector<std::pair<uint32_t, std::string>>* names) {
  Collector out(names);
  const auto excerpt = take_excerpt(text);
  add_end(out, split_excerpt(excerpt.head), true);
  add_end(out, split_excerpt(excerpt.tail), false);
  for (const auto& fact : describe_shape(text, excerpt))
    out.add(kShape, hash_of(fact), 2.0f, [&] { return fact; });
  return out.take();
}

}  // namespace windowkv
