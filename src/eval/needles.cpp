#include "eval/needles.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>

#include "eval/paraphrase_needles.h"
#include "eval/random.h"
#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

constexpr std::array kFirstNames = {"Nora",  "Leo",  "Mona", "Walter", "Vera",    "Adam",
                                    "Irene", "Paul", "Beth", "Noah",   "Quentin", "Julia"};
constexpr std::array kLastNames = {"Haddad", "Gibson", "Neumann", "Klein", "Lang", "Foster",
                                   "Lawson", "Takeda", "Dorn",    "Kim",   "Reed", "Larsen"};
constexpr std::array kCities = {"Lisbon", "Oslo",  "Naples", "Ankara", "Osaka",   "Delhi",
                                "Dhaka",  "Lhasa", "Lusaka", "Nagoya", "Nairobi", "Vilnius"};
constexpr std::array kColors = {"red", "crimson", "orange", "yellow", "green", "blue", "white", "silver"};
constexpr std::array kDishes = {"soup", "cake", "pie", "omelette", "salad", "stew", "bread", "curry"};
constexpr std::array kIngredients = {"mint",   "honey", "cumin",  "sesame", "ginger",
                                     "garlic", "basil", "pepper", "lemon",  "saffron"};
constexpr std::array kActivities = {
    "fly a kite",       "play chess",          "ride the tram",         "paint a landscape",
    "watch the sunset", "listen to live jazz", "visit the old library", "drink hot chocolate"};
constexpr std::array kPlaces = {"the old town",   "the night market", "the main square",
                                "the lighthouse", "Dolores Park",     "the harbour"};
constexpr std::array kTimes = {"at dusk",        "in the spring",      "on a sunny day",
                               "in late autumn", "on a quiet evening", "in the early morning",
                               "after the rain", "during the festival"};
constexpr std::array kWords = {"river",  "cabinet", "engine",  "garden",  "signal", "copper",
                               "marble", "window",  "harvest", "lantern", "meadow", "anchor",
                               "clock",  "bridge",  "stone",   "paper",   "market", "forest",
                               "silver", "history", "train",   "rope",    "cloud",  "island"};

/// Draws from lists, the same for the same point.
class Draw {
 public:
  explicit Draw(const NiahPoint& point)
      : random_({static_cast<uint32_t>(point.seed), static_cast<uint32_t>(point.seed >> 32),
                 static_cast<uint32_t>(point.length),
                 static_cast<uint32_t>(std::bit_cast<uint64_t>(point.depth) >> 32)}) {}
  uint64_t below(uint64_t n) { return random_.below(n); }
  template <size_t N>
  std::string_view of(const std::array<const char*, N>& list) {
    return list[below(N)];
  }
  /// "first second": one of each list.
  template <size_t N, size_t M>
  std::string pair(const std::array<const char*, N>& first, const std::array<const char*, M>& second) {
    const auto one = of(first);
    return fmt::format("{} {}", one, of(second));
  }
  std::string name() { return pair(kFirstNames, kLastNames); }

 private:
  Random random_;
};

Needle ingredient(Draw& draw) {
  const auto dish = draw.pair(kColors, kDishes);
  const std::string answer(draw.of(kIngredients));
  return {fmt::format("The secret ingredient of the {} is {}.", dish, answer),
          fmt::format("What is the secret ingredient of the {}?", dish), answer};
}

Needle birthplace(Draw& draw) {
  const auto name = draw.name();
  const std::string answer(draw.of(kCities));
  return {fmt::format("{} was born in {}.", name, answer), fmt::format("Where was {} born?", name), answer};
}

Needle magic_number(Draw& draw) {
  const auto subject = draw.of(kWords);
  const auto answer = fmt::format("{}", 10000 + draw.below(90000));
  return {fmt::format("One of the special magic numbers for {} is: {}.", subject, answer),
          fmt::format("What is the special magic number for {} mentioned in the provided text?", subject),
          answer};
}

Needle best_thing(Draw& draw) {
  const auto city = draw.of(kCities);
  const auto activity = draw.of(kActivities), place = draw.of(kPlaces), time = draw.of(kTimes);
  const auto answer = fmt::format("{} in {} {}", activity, place, time);
  return {fmt::format("The best thing to do in {} is {}.", city, answer),
          fmt::format("What is the best thing to do in {}?", city), answer};
}

Needle password(Draw& draw) {
  const auto subject = draw.of(kWords);
  const auto words = draw.pair(kWords, kWords);
  const auto answer = fmt::format("{} {}", words, 10 + draw.below(90));
  return {fmt::format("The password of the {} is \"{}\".", subject, answer),
          fmt::format("What is the password of the {}?", subject), answer};
}

Needle code_word(Draw& draw) {
  const auto subject = draw.of(kWords);
  std::string answer(draw.of(kWords));
  while (answer == subject) answer = draw.of(kWords);
  return {fmt::format("The code word for {} is {}.", subject, answer),
          fmt::format("What is the code word for {}?", subject), answer};
}

Needle favorite_color(Draw& draw) {
  const auto name = draw.name();
  const std::string answer(draw.of(kColors));
  return {fmt::format("{}'s favorite color is {}.", name, answer),
          fmt::format("What is {}'s favorite color?", name), answer};
}

Needle prize(Draw& draw) {
  const auto subject = draw.of(kWords);
  const auto answer = draw.name();
  return {fmt::format("The {} prize was awarded to {}.", subject, answer),
          fmt::format("Who was awarded the {} prize?", subject), answer};
}

Needle minilong_needle(const NiahPoint& point) {
  constexpr std::array kForms = {ingredient, birthplace, magic_number,   best_thing,
                                 password,   code_word,  favorite_color, prize};
  Draw draw(point);
  return kForms[draw.below(kForms.size())](draw);
}

/// Seeds that follow each other take pairs that do, from where the length and the depth say: none comes twice
/// in a cell of up to as many prompts.
Needle paraphrase_needle(const NiahPoint& point) {
  const auto pairs = paraphrase_pairs();
  Draw draw({point.length, point.depth, 0});
  const auto& pair = pairs[(draw.below(pairs.size()) + point.seed % pairs.size()) % pairs.size()];
  return {pair.sentence, pair.question, pair.answer};
}

}  // namespace

NeedleSource one_needle(Needle needle) {
  return [needle = std::move(needle)](const NiahPoint&) { return needle; };
}

std::vector<std::string_view> needle_set_names() {
  return {"san-francisco", "minilong", "paraphrase"};
}

NeedleSource needle_set(std::string_view name) {
  if (name == "san-francisco") return one_needle({});
  if (name == "minilong") return minilong_needle;
  if (name == "paraphrase") return paraphrase_needle;
  throw Error(
      fmt::format("unknown needle set \"{}\"; use one of {}", name, fmt::join(needle_set_names(), ", ")));
}

}  // namespace windowkv::eval
