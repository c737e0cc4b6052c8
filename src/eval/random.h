#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace windowkv::eval {

/// Draws that are the same on every machine and with every standard library (the distributions of <random>
/// are not).
class Random {
 public:
  Random(std::initializer_list<uint32_t> seed) {
    std::seed_seq sequence(seed);
    engine_.seed(sequence);
  }
  explicit Random(std::string_view seed) {
    std::seed_seq sequence(seed.begin(), seed.end());
    engine_.seed(sequence);
  }

  /// 0 to n − 1; n must not be 0.
  uint64_t below(uint64_t n) {
    const uint64_t unfair = (0 - n) % n;  // so many of the engine's values would make small results likelier
    uint64_t value = engine_();
    while (value < unfair) value = engine_();
    return value % n;
  }

  /// `low` to `high`, both included.
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(below(static_cast<uint64_t>(high - low) + 1));
  }

  const std::string& pick(const std::vector<std::string>& from) { return from[below(from.size())]; }

  std::string letters(size_t count, char first) {
    std::string text;
    while (text.size() < count) text += static_cast<char>(first + static_cast<char>(below(26)));
    return text;
  }

  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[below(i)]);
  }

  /// `count` different numbers below n, in random order; count must not be more than n. For small counts.
  std::vector<int64_t> sample(int64_t n, size_t count) {
    std::vector<int64_t> drawn;
    while (drawn.size() < count) {
      const auto value = between(0, n - 1);
      if (std::find(drawn.begin(), drawn.end(), value) == drawn.end()) drawn.push_back(value);
    }
    return drawn;
  }

  uint64_t bits() { return engine_(); }

 private:
  std::mt19937_64 engine_;
};

}  // namespace windowkv::eval
