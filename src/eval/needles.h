#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace windowkv::eval {

/// What is hidden, how it is asked for, and what the answer must say. Kamradt's own by default
/// (github.com/gkamradt/LLMTest_NeedleInAHaystack).
struct Needle {
  std::string sentence =
      "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.";
  std::string question = "What is the best thing to do in San Francisco?";
  std::string answer = "eat a sandwich and sit in Dolores Park on a sunny day";
};

/// One prompt of a needle grid.
struct NiahPoint {
  int64_t length = 0;  ///< tokens of the whole prompt
  double depth = 0;    ///< 0 to 100
  uint64_t seed = 0;
};

/// The needle for a point; the same for the same point.
using NeedleSource = std::function<Needle(const NiahPoint&)>;

/// The same needle everywhere.
NeedleSource one_needle(Needle needle);

/// Needles by name: `san-francisco`, the field's one needle; `minilong`, facts in eight forms that the
/// MiniLong model was taught (models/README.md), form, subject and answer drawn anew for each point; and
/// `paraphrase`, facts asked for in other words (paraphrase_needles.h), another for each point of a cell.
std::vector<std::string_view> needle_set_names();
NeedleSource needle_set(std::string_view name);  ///< throws Error for an unknown name

}  // namespace windowkv::eval
