#include "eval/niah.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "eval/metrics.h"
#include "eval/prompt_form.h"
#include "eval/prompt_grid.h"
#include "eval/sentences.h"
#include "eval/words.h"
#include "windowkv/error.h"

namespace windowkv::eval {

using nlohmann::ordered_json;

namespace {

std::string_view trim(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

bool inside_character(std::string_view text, size_t at) {
  return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
}

/// The end of the last whole word before `at`; in text without spaces, of the last whole character.
size_t word_end(std::string_view text, size_t at) {
  while (inside_character(text, at)) --at;
  if (at < text.size() && !is_blank(text[at])) {
    constexpr size_t kLongestWord = 32;
    size_t blank = at;
    while (blank > 0 && at - blank < kLongestWord && !is_blank(text[blank - 1])) --blank;
    if (blank == 0 || is_blank(text[blank - 1])) at = blank;
  }
  while (at > 0 && is_blank(text[at - 1])) --at;
  return at;
}

std::u32string normalized(std::string_view text) {
  std::u32string out;
  for (const auto& word : split_words(lowercase(code_points(text)))) out += (out.empty() ? U"" : U" ") + word;
  return out;
}

std::string point_name(const NiahPoint& point) {
  return fmt::format("{} tokens/{:g} %/seed {}", point.length, point.depth, point.seed);
}

std::string cell_key(const Contender& contender, const NiahPoint& point, const NiahOptions& options) {
  return fmt::format("{}/{} {}", contender.name, point_name(point), options.setup);
}

ordered_json row_of(const NiahPoint& point, int64_t needle_position, const NiahCell& cell) {
  return {{"length", point.length},    {"depth", point.depth},
          {"seed", point.seed},        {"answer", cell.answer},
          {"expected", cell.expected}, {"rouge1", cell.rouge1},
          {"exact", cell.exact},       {"needle_position", needle_position}};
}

NiahCell from_json(const ordered_json& row) {
  return {
      row.at("answer"),        row.at("expected"),        row.at("rouge1"),           row.at("exact"),
      row.at("prompt_tokens"), row.at("needle_position"), row.at("generated_tokens"), row.at("kept_share"),
      row.at("kept_bytes")};
}

double mean_or_nan(const std::vector<double>& values) {
  return values.empty() ? std::nan("") : mean(values);
}

NiahSummary summarize(const NiahGrid& grid, const Contender& contender,
                      const std::vector<std::optional<NiahCell>>& cells) {
  NiahSummary out{.name = contender.name, .budget = contender.budget};
  const auto points = grid.points();
  // Of the points for which `wanted` holds.
  auto values_of = [&](auto value, auto wanted) {
    std::vector<double> values;
    for (size_t i = 0; i < points.size(); ++i)
      if (cells[i] && wanted(points[i])) values.push_back(static_cast<double>(value(*cells[i])));
    return values;
  };
  auto rouge1 = [](const NiahCell& c) { return c.rouge1; };
  auto all = [](const NiahPoint&) { return true; };
  for (double depth : grid.depths) {
    auto& row = out.rouge1.emplace_back();
    for (auto length : grid.lengths)
      row.push_back(mean_or_nan(
          values_of(rouge1, [=](const NiahPoint& p) { return p.length == length && p.depth == depth; })));
  }
  for (auto length : grid.lengths)
    out.by_length.push_back(
        mean_or_nan(values_of(rouge1, [=](const NiahPoint& p) { return p.length == length; })));
  out.overall = bootstrap_mean(values_of(rouge1, all));
  out.exact = bootstrap_mean(values_of([](const NiahCell& c) { return c.exact ? 100 : 0; }, all));
  out.kept_share = mean_or_nan(values_of([](const NiahCell& c) { return c.kept_share; }, all));
  out.kept_bytes = mean_or_nan(values_of([](const NiahCell& c) { return c.kept_bytes; }, all));
  return out;
}

}  // namespace

size_t needle_place(std::string_view text, double depth) {
  if (depth >= 100) return text.size();
  const auto wanted = static_cast<size_t>(static_cast<double>(text.size()) * std::max(0.0, depth) / 100);
  auto ends = [&](size_t at) { return !inside_character(text, at) && ends_sentence(text, at); };
  size_t before = wanted, after = wanted;
  while (before > 0 && !ends(before)) --before;
  while (after < text.size() && after - wanted < wanted - before && !ends(after)) ++after;
  return after < text.size() && after - wanted < wanted - before ? after : before;
}

bool needle_found(std::string_view answer, std::string_view expected) {
  return normalized(answer).find(normalized(expected)) != std::u32string::npos;
}

Sample niah_sample(const NiahPrompt& prompt, const NiahPoint& point, bool chat, int64_t max_tokens) {
  Sample sample;
  sample.dataset = "niah";
  sample.id = point_name(point);
  sample.prompt = prompt.text;
  sample.answers = {prompt.needle.answer};
  sample.metric = Metric::kRouge1;
  sample.max_new_tokens = max_tokens;
  sample.task = Task::kLocalization;
  sample.own_prompt = true;  // the template is in it
  sample.first_line = !chat;
  return sample;
}

NiahCell niah_cell(const Sample& sample, std::string_view generated) {
  NiahCell cell;
  cell.answer = trim(sample.first_line ? first_line(generated) : generated);
  cell.expected = sample.answers.front();
  cell.rouge1 = score(sample, generated);
  cell.exact = needle_found(cell.answer, cell.expected);
  return cell;
}

NiahPrompts::NiahPrompts(const Vocab& vocab, const std::string& haystack, NeedleSource needles, bool chat)
    : vocab_(vocab), haystack_(trim(haystack)), needles_(std::move(needles)), chat_(chat) {
  if (haystack_.empty()) throw Error("the haystack is empty");
  form_ = chat ? chat_form(vocab) : PromptForm{"", "\nAnswer:"};
}

NiahPrompt NiahPrompts::build(const Needle& needle, std::string_view text, double depth) const {
  const size_t place = needle_place(text, depth);
  const auto rest = text.substr(place);
  std::string message(text.substr(0, place));
  if (place > 0) message += ' ';
  message += needle.sentence;
  if (!rest.empty() && !is_blank(rest.front())) message += ' ';
  message += std::string(rest) + "\n\nQuestion: " + needle.question;
  const auto prompt = form_.around(vocab_, message);
  // The needle's place is in bytes until the text is settled.
  return {.needle = needle,
          .tokens = vocab_.tokenize(prompt),
          .text = prompt.text,
          .needle_position = static_cast<int64_t>(form_.before.size() + place)};
}

std::string NiahPrompts::haystack_from(size_t start, size_t bytes) const {
  auto text = haystack_.substr(start);
  while (text.size() < bytes) text += "\n\n" + haystack_;
  text.resize(bytes);
  return text;
}

size_t NiahPrompts::start_of(uint64_t seed) const {
  if (seed == 0) return 0;
  const double share = static_cast<double>(std::mt19937_64(seed)() >> 11) * 0x1p-53;
  size_t at = needle_place(haystack_, 100 * share);
  while (is_blank(haystack_[at])) ++at;  // the haystack ends in something else
  return at == haystack_.size() ? 0 : at;
}

NiahPrompt NiahPrompts::make(const NiahPoint& point) const {
  const auto length = point.length;
  const auto needle = needles_(point);
  for (const auto* part : {&needle.sentence, &needle.question, &needle.answer})
    if (trim(*part).empty())
      throw Error("the needle, the question and the expected answer must not be empty");
  if (haystack_.find(needle.sentence) != std::string::npos)
    throw Error("the haystack already contains the needle");
  auto build_from = [&](std::string_view text) { return build(needle, text, point.depth); };
  auto fits = [&](const NiahPrompt& p) { return static_cast<int64_t>(p.tokens.size()) <= length; };
  auto best = build_from("");
  if (!fits(best))
    throw Error(fmt::format("a prompt of {} tokens is too short: the needle and the question alone take {}",
                            length, best.tokens.size()));
  const size_t start = start_of(point.seed);
  size_t too_long = 4 * static_cast<size_t>(length);  // bytes
  auto text = haystack_from(start, too_long);
  while (fits(build_from(text))) {
    too_long *= 2;
    text = haystack_from(start, too_long);
  }
  for (size_t fitting = 0; too_long - fitting > 1;) {
    const size_t middle = fitting + (too_long - fitting) / 2;
    auto prompt = build_from(std::string_view(text).substr(0, word_end(text, middle)));
    if (fits(prompt)) {
      fitting = middle;
      best = std::move(prompt);
    } else {
      too_long = middle;
    }
  }
  const auto needle_at = static_cast<size_t>(best.needle_position);
  best.needle_position =
      static_cast<int64_t>(vocab_.tokenize(std::string_view(best.text).substr(0, needle_at)).size());
  return best;
}

std::vector<NiahPoint> NiahGrid::points() const {
  std::vector<NiahPoint> all;
  for (auto seed : seeds)
    for (auto length : lengths)
      for (double depth : depths) all.push_back({length, depth, seed});
  return all;
}

NiahCells run_niah(Engine& engine, const Model& model, const NiahPrompts& prompts,
                   std::span<const NiahPoint> points, std::span<const Contender> contenders,
                   const NiahOptions& options) {
  PromptGrid grid;
  grid.prompts = points.size();
  grid.key = [&](size_t p, const Contender& contender) { return cell_key(contender, points[p], options); };
  grid.size = [&](size_t p) { return points[p].length; };
  grid.make = [&](size_t p) -> GridPrompt {
    auto prompt = prompts.make(points[p]);
    const auto sample = niah_sample(prompt, points[p], prompts.chat(), options.max_tokens);
    return {std::move(prompt.tokens), sample.prompt, sample.task, sample_generation(model.vocab(), sample),
            [&point = points[p], sample, at = prompt.needle_position](const Answer& answer) {
              return row_of(point, at, niah_cell(sample, answer.text));
            }};
  };
  grid.task = options.task;
  grid.log = options.log;
  grid.cancelled = options.cancelled;
  grid.progress = options.progress;
  NiahCells cells;
  for (const auto& rows : run_grid(engine, model, grid, contenders)) {
    auto& of_contender = cells.emplace_back();
    for (const auto& row : rows)
      of_contender.push_back(row.is_null() ? std::nullopt : std::optional(read_row(row, from_json)));
  }
  return cells;
}

std::vector<NiahSummary> summarize_niah(const NiahGrid& grid, std::span<const Contender> contenders,
                                        const NiahCells& cells) {
  std::vector<NiahSummary> out;
  for (size_t c = 0; c < contenders.size(); ++c) out.push_back(summarize(grid, contenders[c], cells[c]));
  return out;
}

}  // namespace windowkv::eval
