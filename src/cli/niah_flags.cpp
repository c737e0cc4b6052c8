#include "cli/niah_flags.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/haystack.h"
#include "cli/options.h"
#include "cli/provenance.h"
#include "support/utf8.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

/// "11": so many, evenly from 0 to 100 %, rounded as Kamradt's are. "0,50,100" or "50%": these.
std::vector<double> parse_depths(const std::string& text) {
  const auto refuse = [&](const char* why) {
    throw Error(fmt::format(
        "--depths \"{}\": {}; give a number of depths (11), or depths in percent (0,25,50 or 50%)", text,
        why));
  };
  std::vector<double> depths;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const size_t last = end > at && text[end - 1] == '%' ? end - 1 : end;
    double depth = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + last, depth);
    if (error != std::errc() || stop != text.data() + last) refuse("not a number");
    depths.push_back(depth);
    at = end + 1;
  }
  const bool count = text.find_first_of(",%") == std::string::npos;
  if (count) {
    const double n = depths[0];
    if (n < 1 || n > 101 || n != std::floor(n)) refuse("not a whole number from 1 to 101");
    depths = {50};  // a single one
    if (n > 1) depths.clear();
    for (int i = 0; n > 1 && i < n; ++i) depths.push_back(std::round(100.0 * i / (n - 1)));
  }
  std::sort(depths.begin(), depths.end());
  depths.erase(std::unique(depths.begin(), depths.end()), depths.end());
  if (!(depths.front() >= 0 && depths.back() <= 100)) refuse("a depth is not between 0 and 100 %");
  return depths;
}

}  // namespace

void NiahFlags::add_to(CLI::App& app, const std::string& prefix) {
  const auto name = [&](const char* text, const char* short_name = "") {
    return (prefix.empty() ? short_name : "") + ("--" + prefix) + text;
  };
  auto* group = app.add_option_group(prefix.empty() ? "Test" : "Needle in a haystack");
  add_lengths(*group, name("lengths", "-l,"), lengths,
              fmt::format("prompt lengths in tokens, with the question and the chat template; 1k is 1,024{}",
                          prefix.empty() ? "" : " (default: no needle test)"));
  group
      ->add_option(name("depths"), depths,
                   "where the needle goes: N depths evenly spaced from 0 to 100 %, or a list of percentages")
      ->type_name("N|P,P,...")
      ->capture_default_str();
  group
      ->add_option(name("needle-set"), needle_set,
                   fmt::format("what is hidden: {}; minilong takes a different fact for each prompt, in a "
                               "form that MiniLong was trained on; paraphrase takes a different one of 40 "
                               "facts, asked for in words that do not occur in the fact",
                               fmt::join(eval::needle_set_names(), ", ")))
      ->type_name("NAME")
      ->capture_default_str();
  own_needle_ = {group->add_option(name("needle"), needle.sentence, "sentence to hide")
                     ->type_name("TEXT")
                     ->capture_default_str(),
                 group->add_option(name("question"), needle.question, "question that asks for it")
                     ->type_name("TEXT")
                     ->capture_default_str(),
                 group->add_option(name("answer"), needle.answer, "expected answer")
                     ->type_name("TEXT")
                     ->capture_default_str()};
  group
      ->add_option(name("haystack"), haystack,
                   "text file, or folder of .txt files, to hide the needle in (default: the bundled "
                   "novel)")
      ->type_name("FILE|FOLDER");
  group->add_flag(name("no-chat"), no_chat,
                  "ask with \"Question: ... Answer:\" instead of the model's chat template");
  group
      ->add_option(name("seed"), seed,
                   "random seed: where in the haystack the text starts (0: at its beginning), and which "
                   "facts of a set are used")
      ->capture_default_str();
  group->add_option(name("samples"), samples, "prompts per cell, with consecutive seeds")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  group->add_option(name("predict", "-n,"), predict, "maximum tokens of an answer")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  // Where the test is one suite of several, its lengths ask for it.
  auto* asked = group->get_option(name("lengths"));
  for (auto* option : group->get_options())
    if (!prefix.empty() && option != asked) option->needs(asked);
}

NiahInputs NiahFlags::read() const {
  NiahInputs inputs;
  inputs.grid.lengths = lengths;
  inputs.grid.depths = parse_depths(depths);
  inputs.needles = eval::needle_set(needle_set);
  inputs.haystack_path = haystack.empty() ? default_haystack() : haystack;
  sort_unique(inputs.grid.lengths);
  for (int i = 0; i < samples; ++i) inputs.grid.seeds.push_back(seed + static_cast<uint64_t>(i));
  const bool own = std::any_of(own_needle_.begin(), own_needle_.end(),
                               [](const auto* option) { return option->count() > 0; });
  if (own && needle_set != "san-francisco")
    throw Error(
        fmt::format("the needle set {} has its own sentences; omit --needle, --question and "
                    "--answer",
                    needle_set));
  for (const auto* text : {&needle.sentence, &needle.question, &needle.answer})
    if (utf8_first_error(*text) != std::string::npos)
      throw Error("the text of --needle, --question or --answer is not UTF-8");
  if (own) inputs.needles = eval::one_needle(needle);
  inputs.haystack = read_haystack(inputs.haystack_path);
  return inputs;
}

eval::NiahPrompts NiahFlags::prompts(const Model& model, const NiahInputs& inputs) const {
  eval::NiahPrompts made(model.vocab(), inputs.haystack, inputs.needles, chat(model.vocab()));
  made.make({inputs.grid.lengths.front(), 0, seed});
  check_context(model.hparams(), inputs.grid.lengths.back(), predict);
  return made;
}

std::string NiahFlags::setup(const Vocab& vocab, const NiahInputs& inputs) const {
  const nlohmann::json all = {
      needle_set, fnv1a64(inputs.haystack), needle.sentence, needle.question, needle.answer, chat(vocab),
      predict};
  return fnv1a64(all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

Facts NiahFlags::facts(const Vocab& vocab, const NiahInputs& inputs) const {
  Facts facts;
  if (needle_set == "san-francisco")
    facts = {{"Needle", needle.sentence}, {"Question", needle.question}, {"Expected answer", needle.answer}};
  else
    facts = {{"Needles",
              fmt::format("the set {}: a different one for each prompt, chosen by its seed", needle_set)}};
  facts.emplace_back("Prompt form", chat(vocab)
                                        ? "the model's chat template around {text}\\n\\nQuestion: {question}"
                                        : "{text}\\n\\nQuestion: {question}\\nAnswer:");
  facts.emplace_back("Haystack", fmt::format("{}, {} bytes, FNV-1a 64 {}",
                                             std::filesystem::path(inputs.haystack_path).filename().string(),
                                             inputs.haystack.size(), fnv1a64(inputs.haystack)));
  facts.emplace_back("Seeds", fmt::format("{}", fmt::join(inputs.grid.seeds, ", ")));
  facts.emplace_back("Decoding", fmt::format("greedy, at most {} tokens", predict));
  return facts;
}

}  // namespace windowkv::cli
