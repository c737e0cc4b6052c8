#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>

#include "eval/ruler/drafts.h"
#include "eval/ruler/fit.h"

namespace windowkv::eval::ruler {

namespace {

struct Chain {
  std::string value;
  std::vector<std::string> names;
  std::vector<std::string> lines;
};

Chain draw_chain(Random& random, size_t hops, size_t letters) {
  Chain chain;
  chain.value = fmt::format("{}", random.between(10'000, 99'998));
  std::set<std::string> known;
  while (chain.names.size() <= hops) {
    auto name = random.letters(letters, 'A');
    if (known.insert(name).second) chain.names.push_back(std::move(name));
  }
  chain.lines.push_back(fmt::format("VAR {} = {}", chain.names[0], chain.value));
  for (size_t i = 1; i <= hops; ++i)
    chain.lines.push_back(fmt::format("VAR {} = VAR {} ", chain.names[i], chain.names[i - 1]));
  return chain;
}

Text question(const Chain& chain, int64_t noises, Random places) {
  auto at = places.sample(noises, chain.lines.size());
  std::sort(at.begin(), at.end());
  const std::vector<std::string> noise(static_cast<size_t>(noises), std::string(kNoiseText));
  return {fmt::format("Memorize and track the chain(s) of variable assignment hidden in the following "
                      "text.\n\n{}\nQuestion: Find all variables that are assigned the value {} in the text "
                      "above.",
                      lines_with(noise, chain.lines, at), chain.value),
          fmt::format(" Answer: According to the chain(s) of variable assignment in the text above, {} "
                      "variables are assigned the value {}, they are: ",
                      chain.names.size(), chain.value),
          chain.names};
}

/// A solved one, of shorter names and at most 500 tokens, with the empty line after it.
std::string example(size_t hops, const Request& request) {
  constexpr int64_t kTokens = 500;
  auto random = request.random("example");
  const auto chain = draw_chain(random, hops, /*letters=*/3);
  const auto least = static_cast<int64_t>(chain.lines.size());
  auto text = [&](int64_t noises) {
    const auto t = question(chain, noises, request.random("places in the example"));
    return t.input + t.answer_prefix;
  };
  const auto noises = largest_fitting(least, int64_t{1} << 20, kTokens,
                                      [&](int64_t n) { return request.source.count_tokens(text(n)); });
  return fmt::format("{} {}\n\n", text(noises.value_or(least)), fmt::join(chain.names, " "));
}

}  // namespace

Draft draft_variable_tracking(size_t hops, const Request& request) {
  auto random = request.random("chain");
  const auto chain = draw_chain(random, hops, /*letters=*/5);
  return {.min_units = static_cast<int64_t>(chain.lines.size()),
          .text = [=, solved = example(hops, request)](int64_t units) {
            auto text = question(chain, units, request.random("places"));
            text.input.insert(0, solved);
            return text;
          }};
}

}  // namespace windowkv::eval::ruler
