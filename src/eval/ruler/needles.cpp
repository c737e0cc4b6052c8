#include <fmt/format.h>

#include <cmath>
#include <set>

#include "eval/ruler/drafts.h"

namespace windowkv::eval::ruler {

namespace {

std::string_view plural(Magic kind) {
  switch (kind) {
    case Magic::kNumbers:
      return "numbers";
    case Magic::kWords:
      return "words";
    case Magic::kUuids:
      break;
  }
  return "uuids";
}

/// Version 4, RFC 4122: 122 random bits.
std::string draw_uuid(Random& random) {
  const uint64_t high = (random.bits() & ~uint64_t{0xF000}) | 0x4000;
  const uint64_t low = (random.bits() & ~(uint64_t{3} << 62)) | (uint64_t{2} << 62);
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, (high >> 16) & 0xFFFF, high & 0xFFFF,
                     low >> 48, low & 0xFFFFFFFFFFFF);
}

std::string draw(Magic kind, Random& random) {
  switch (kind) {
    case Magic::kNumbers:
      return fmt::format("{}", random.between(1'000'000, 9'999'999));
    case Magic::kWords: {
      const auto& adjective = random.pick(adjectives());
      return adjective + "-" + random.pick(nouns());
    }
    case Magic::kUuids:
      break;
  }
  return draw_uuid(random);
}

/// RULER's own keys may meet by chance; with our shorter word lists that would happen too often.
std::string draw_new(Magic kind, Random& random, const std::set<std::string>& known) {
  auto value = draw(kind, random);
  while (known.contains(value)) value = draw(kind, random);
  return value;
}

std::string sentence(Magic kind, std::string_view key, std::string_view value) {
  return fmt::format("One of the special magic {} for {} is: {}.", plural(kind), key, value);
}

/// "a", "a, and b", "a, b, and c".
std::string enumeration(const std::vector<std::string>& keys) {
  auto text = keys.front();
  for (size_t i = 1; i < keys.size(); ++i) text += (i + 1 == keys.size() ? ", and " : ", ") + keys[i];
  return text;
}

/// The first words of the essay with needles between its sentences, at depths in percent of the sentences,
/// ascending. What stands between two needles is joined to them by a space even where it is nothing.
std::string essay_with(const Essay& essay, int64_t words, const std::vector<std::string>& needles,
                       const std::vector<int>& depths) {
  const auto total = static_cast<size_t>(words);
  std::vector<size_t> starts = {0};  // first words of the sentences, and `total`
  for (size_t i = 0; i < total; ++i)
    if (i + 1 == total || essay.ends_sentence[i % essay.words.size()]) starts.push_back(i + 1);
  const auto sentences = static_cast<double>(starts.size() - 1);
  std::string text;
  size_t at = 0;
  auto append_until = [&](size_t end) {
    for (bool first = true; at < end; ++at, first = false) {
      if (!first) text += ' ';
      text += essay.words[at % essay.words.size()];
    }
  };
  for (size_t i = 0; i < needles.size(); ++i) {
    append_until(starts[static_cast<size_t>(sentences * (depths[i] / 100.0))]);
    text += " " + needles[i] + " ";
  }
  append_until(total);
  return text;
}

/// 40 depths, evenly from 0 to 100 % and rounded, of which each needle takes another.
std::vector<int> draw_depths(Random random, size_t count) {
  constexpr int kDepths = 40;
  std::vector<int> depths;
  for (auto i : random.sample(kDepths, count))
    depths.push_back(static_cast<int>(std::lround(100.0 * static_cast<double>(i) / (kDepths - 1))));
  std::sort(depths.begin(), depths.end());
  return depths;
}

/// What is hidden and what is asked.
struct Hidden {
  std::vector<std::string> needles;  // in the order of the text
  std::set<std::string> keys;
  std::vector<std::string> asked;
  std::vector<std::string> answers;
};

Hidden hide(const Needles& settings, Random random) {
  Hidden hidden;
  std::vector<std::string> keys;
  std::vector<std::vector<std::string>> values;
  for (size_t k = 0; k < settings.keys_hidden; ++k) {
    keys.push_back(draw_new(settings.keys, random, hidden.keys));
    hidden.keys.insert(keys.back());
    auto& of_key = values.emplace_back();
    for (size_t v = 0; v < settings.values_a_key; ++v) {
      of_key.push_back(draw(settings.values, random));
      hidden.needles.push_back(sentence(settings.values, keys.back(), of_key.back()));
    }
  }
  random.shuffle(hidden.needles);
  for (auto k : random.sample(static_cast<int64_t>(keys.size()), settings.keys_asked)) {
    const auto key = static_cast<size_t>(k);
    hidden.asked.push_back(keys[key]);
    hidden.answers.insert(hidden.answers.end(), values[key].begin(), values[key].end());
  }
  return hidden;
}

/// The text around `context`, in the singular where one value is asked for.
Text question(const Needles& settings, const Hidden& hidden, const std::string& context) {
  const auto query = enumeration(hidden.asked);
  const bool one = settings.keys_asked * settings.values_a_key == 1;
  auto kind = plural(settings.values);
  if (one) kind.remove_suffix(1);
  return {fmt::format("{} special magic {} {} hidden within the following text. Make sure to memorize it. I "
                      "will quiz you about the {} afterwards.\n{}\nWhat {} the special magic {} for {} "
                      "mentioned in the provided text?",
                      one ? "A" : "Some", kind, one ? "is" : "are", kind, context, one ? "is" : "are all",
                      kind, query),
          fmt::format(" The special magic {} for {} mentioned in the provided text {}", kind, query,
                      one ? "is" : "are"),
          hidden.answers};
}

}  // namespace

std::string lines_with(std::vector<std::string> sentences, const std::vector<std::string>& inserted,
                       const std::vector<int64_t>& places) {
  for (size_t i = inserted.size(); i-- > 0;) sentences.insert(sentences.begin() + places[i], inserted[i]);
  std::string text;
  for (size_t i = 0; i < sentences.size(); ++i) text += (i == 0 ? "" : "\n") + sentences[i];
  return text;
}

Draft draft_needles(const Needles& settings, const Request& request) {
  const auto hidden = hide(settings, request.random("needles"));
  const auto count = hidden.needles.size();
  if (settings.filler == Filler::kEssay)
    return {.text = [=, depths = draw_depths(request.random("depths"), count)](int64_t units) {
      return question(settings, hidden, essay_with(request.source.essay, units, hidden.needles, depths));
    }};
  return {.min_units = static_cast<int64_t>(count), .text = [=](int64_t units) {
            std::vector<std::string> sentences(static_cast<size_t>(units), std::string(kNoiseText));
            auto others = request.random("other needles");
            if (settings.filler == Filler::kNeedles)
              for (auto& other : sentences) {
                const auto key = draw_new(settings.keys, others, hidden.keys);
                other = sentence(settings.values, key, draw(settings.values, others));
              }
            auto places = request.random("places").sample(units, count);
            std::sort(places.begin(), places.end());
            return question(settings, hidden, lines_with(std::move(sentences), hidden.needles, places));
          }};
}

}  // namespace windowkv::eval::ruler
