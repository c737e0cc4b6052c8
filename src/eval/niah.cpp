#include "eval/niah.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <random>

#include "eval/metrics.h"
#include "eval/words.h"
#include "windowkv/error.h"
#include "windowkv/generate.h"

namespace windowkv::eval {

using nlohmann::ordered_json;

namespace {

bool is_blank(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

/// Takes one of the endings off the text, if it has one.
bool drop_ending(std::string_view& text, std::span<const std::string_view> endings) {
  for (auto ending : endings)
    if (text.ends_with(ending)) {
      text.remove_suffix(ending.size());
      return true;
    }
  return false;
}

/// Whether the period that follows the text belongs to its last word: "Mr", "St", "J".
bool is_abbreviation(std::string_view text) {
  constexpr std::array<std::string_view, 7> titles = {"Mr", "Mrs", "Ms", "Dr", "St", "Prof", "No"};
  size_t start = text.size();
  while (start > 0 && std::isalpha(static_cast<unsigned char>(text[start - 1])) != 0) --start;
  const auto word = text.substr(start);
  return (word.size() == 1 && word != "I") || std::find(titles.begin(), titles.end(), word) != titles.end();
}

/// Whether a sentence or a paragraph ends just before `at`.
bool ends_sentence(std::string_view text, size_t at) {
  constexpr std::array<std::string_view, 9> closing = {"\"", "'", ")", "]", "”", "’", "」", "』", "）"};
  constexpr std::array<std::string_view, 4> western = {"!", "?", "…", "."};
  constexpr std::array<std::string_view, 3> chinese = {"。", "！", "？"};
  auto before = text.substr(0, at);
  const auto after = text.substr(at);
  if (before.empty() || is_blank(before.back())) return false;
  if (after.starts_with("\n\n") || after.starts_with("\r\n\r\n")) return true;
  for (auto mark : closing)
    if (after.starts_with(mark)) return false;
  while (drop_ending(before, closing)) {
  }
  if (drop_ending(before, chinese)) return true;
  if (!after.empty() && !is_blank(after.front())) return false;
  const bool period = before.ends_with('.');
  return drop_ending(before, western) && !(period && is_abbreviation(before));
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

/// What a base model says after "Answer:" goes on with other things on the next line.
std::string scored_part(std::string_view generated, bool chat) {
  auto text = trim(generated);
  if (!chat) text = trim(text.substr(0, text.find('\n')));
  return std::string(text);
}

std::string cell_key(const Contender& contender, const NiahPoint& point, const NiahOptions& options) {
  return fmt::format("{}/{} tokens/{:g} %/seed {} {}", contender.name, point.length, point.depth, point.seed,
                     options.setup);
}

struct CellTimes {
  double prefill_ms = 0;  ///< of the prefill that the point's contenders share
  double decode_ms = 0;
  size_t sharing = 0;
};

ordered_json to_json(const std::string& key, const Contender& contender, const NiahPoint& point,
                     const NiahCell& cell, const CellTimes& times) {
  return {{"key", key},
          {"policy", contender.kv == "full" ? "full" : contender.name.substr(0, contender.name.rfind(' '))},
          {"budget", contender.kv == "full" ? ordered_json() : ordered_json(contender.budget)},
          {"length", point.length},
          {"depth", point.depth},
          {"seed", point.seed},
          {"answer", cell.answer},
          {"rouge1", cell.rouge1},
          {"exact", cell.exact},
          {"prompt_tokens", cell.prompt_tokens},
          {"needle_position", cell.needle_position},
          {"generated_tokens", cell.generated_tokens},
          {"kept_share", cell.kept_share},
          {"prefill_ms", times.prefill_ms},
          {"prefill_shared_by", times.sharing},
          {"decode_ms", times.decode_ms}};
}

NiahCell from_json(const ordered_json& row) {
  return {row.at("answer"),          row.at("rouge1"),           row.at("exact"),     row.at("prompt_tokens"),
          row.at("needle_position"), row.at("generated_tokens"), row.at("kept_share")};
}

/// Answers one point under the contenders, handing each cell over as soon as it is there.
void run_point(Engine& engine, const Model& model, const NiahPrompts& prompts, const NiahPoint& point,
               std::span<const Contender* const> contenders, const NiahOptions& options,
               const std::function<void(int64_t, int64_t)>& prefill_progress,
               const std::function<void(size_t, NiahCell, const CellTimes&)>& done) {
  const auto prompt = prompts.make(point.length, point.depth, point.seed);
  std::vector<std::unique_ptr<Policy>> owned;
  std::vector<const Policy*> policies;
  constexpr Task kGiven = Task::kLocalization;
  for (const auto* contender : contenders) {
    owned.push_back(policy_for(*contender, options.task, kGiven, prompt.text));
    policies.push_back(owned.back().get());
  }
  PrefillOptions prefill;
  prefill.reserve = options.max_tokens;
  prefill.cancelled = options.cancelled;
  prefill.progress = prefill_progress;
  std::vector<Sequence> sequences(policies.size());
  const auto span = engine.prefill(sequences, prompt.tokens, policies, prefill);
  const std::vector<float> logits(span.begin(), span.end());  // decoding the first sequence overwrites them
  GenerateOptions generation;
  generation.max_tokens = options.max_tokens;
  generation.cancelled = options.cancelled;
  for (size_t i = 0; i < sequences.size(); ++i) {
    auto& sequence = sequences[i];
    const auto out = generate(engine, model.find_vocab(), sequence, logits, prompt.tokens, generation);
    if (out.reason == StopReason::kCancelled) throw Cancelled();
    NiahCell cell;
    cell.answer = scored_part(out.text, prompts.chat());
    cell.rouge1 = needle_rouge1(cell.answer, prompts.needle().answer);
    cell.exact = needle_found(cell.answer, prompts.needle().answer);
    cell.prompt_tokens = static_cast<int64_t>(prompt.tokens.size());
    cell.needle_position = prompt.needle_position;
    cell.generated_tokens = static_cast<int64_t>(out.tokens.size());
    cell.kept_share = static_cast<double>(sequence.bytes.kept) / static_cast<double>(sequence.bytes.full);
    done(i, std::move(cell), {sequence.timing.total, out.decode_ms, sequences.size()});
  }
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (double v : values) sum += v;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

NiahSummary summarize(const NiahGrid& grid, const std::string& name, const std::vector<NiahCell>& cells) {
  NiahSummary out{.name = name};
  const auto points = grid.points();
  // Means over the points for which `wanted` holds.
  auto mean_of = [&](auto value, auto wanted) {
    std::vector<double> values;
    for (size_t i = 0; i < points.size(); ++i)
      if (wanted(points[i])) values.push_back(value(cells[i]));
    return mean(values);
  };
  auto rouge1 = [](const NiahCell& c) { return c.rouge1; };
  auto all = [](const NiahPoint&) { return true; };
  for (double depth : grid.depths) {
    auto& row = out.rouge1.emplace_back();
    for (auto length : grid.lengths)
      row.push_back(
          mean_of(rouge1, [=](const NiahPoint& p) { return p.length == length && p.depth == depth; }));
  }
  for (auto length : grid.lengths)
    out.by_length.push_back(mean_of(rouge1, [=](const NiahPoint& p) { return p.length == length; }));
  out.overall = mean_of(rouge1, all);
  out.exact = mean_of([](const NiahCell& c) { return c.exact ? 100.0 : 0.0; }, all);
  out.kept_share = mean_of([](const NiahCell& c) { return c.kept_share; }, all);
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

double needle_rouge1(std::string_view answer, std::string_view expected) {
  return 100 * rouge1_f1(answer, expected);
}

bool needle_found(std::string_view answer, std::string_view expected) {
  return normalized(answer).find(normalized(expected)) != std::u32string::npos;
}

NiahPrompts::NiahPrompts(const Vocab& vocab, const std::string& haystack, Needle needle, bool chat)
    : vocab_(vocab), haystack_(trim(haystack)), needle_(std::move(needle)), chat_(chat) {
  if (haystack_.empty()) throw Error("the haystack is empty");
  for (const auto* part : {&needle_.sentence, &needle_.question, &needle_.answer})
    if (trim(*part).empty())
      throw Error("the needle, the question and the expected answer must not be empty");
  if (haystack_.find(needle_.sentence) != std::string::npos)
    throw Error("the haystack already holds the needle");
  const auto question = "\n\nQuestion: " + needle_.question;
  if (!chat) {
    after_ = question + "\nAnswer:";
    return;
  }
  // The template is applied once, to a mark that stands for the text.
  constexpr std::string_view kMark = "WINDOWKV-HAYSTACK-TEXT";
  const auto form = vocab.apply_chat_template({{"user", std::string(kMark) + question}});
  const auto at = form.find(kMark);
  if (at == std::string::npos || form.find(kMark, at + 1) != std::string::npos)
    throw Error("the model's chat template does not repeat a message once, as it is; use --no-chat");
  before_ = form.substr(0, at);
  after_ = form.substr(at + kMark.size());
}

NiahPrompt NiahPrompts::build(std::string_view text, double depth) const {
  const size_t place = needle_place(text, depth);
  const auto rest = text.substr(place);
  NiahPrompt prompt;
  prompt.text = before_ + std::string(text.substr(0, place));
  const size_t needle_at = prompt.text.size();
  if (place > 0) prompt.text += ' ';
  prompt.text += needle_.sentence;
  if (!rest.empty() && !is_blank(rest.front())) prompt.text += ' ';
  prompt.text += std::string(rest) + after_;
  prompt.tokens = vocab_.tokenize(prompt.text);
  prompt.needle_position = static_cast<int64_t>(needle_at);  // bytes, until the text is settled
  return prompt;
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

NiahPrompt NiahPrompts::make(int64_t length, double depth, uint64_t seed) const {
  auto fits = [&](const NiahPrompt& p) { return static_cast<int64_t>(p.tokens.size()) <= length; };
  auto best = build("", depth);
  if (!fits(best))
    throw Error(fmt::format("a prompt of {} tokens has no room: the needle and the question alone take {}",
                            length, best.tokens.size()));
  const size_t start = start_of(seed);
  size_t too_long = 4 * static_cast<size_t>(length);  // bytes
  auto text = haystack_from(start, too_long);
  while (fits(build(text, depth))) {
    too_long *= 2;
    text = haystack_from(start, too_long);
  }
  for (size_t fitting = 0; too_long - fitting > 1;) {
    const size_t middle = fitting + (too_long - fitting) / 2;
    auto prompt = build(std::string_view(text).substr(0, word_end(text, middle)), depth);
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

std::vector<std::vector<NiahCell>> run_niah(Engine& engine, const Model& model, const NiahPrompts& prompts,
                                            std::span<const NiahPoint> points,
                                            std::span<const Contender> contenders,
                                            const NiahOptions& options) {
  std::vector<std::vector<NiahCell>> cells(contenders.size(), std::vector<NiahCell>(points.size()));
  std::vector<std::vector<size_t>> missing(points.size());  // contenders still to run, by point
  int64_t total = 0, done = 0;
  for (size_t p = 0; p < points.size(); ++p) {
    for (size_t c = 0; c < contenders.size(); ++c) {
      const auto key = cell_key(contenders[c], points[p], options);
      const auto* row = options.log != nullptr ? options.log->find(key) : nullptr;
      if (row != nullptr)
        cells[c][p] = from_json(*row);
      else
        missing[p].push_back(c);
    }
    if (!missing[p].empty()) total += points[p].length;
  }
  for (size_t p = 0; p < points.size(); ++p) {
    if (missing[p].empty()) continue;
    const auto& point = points[p];
    std::vector<const Contender*> pending;
    for (size_t c : missing[p]) pending.push_back(&contenders[c]);
    auto prefill_progress = [&](int64_t step, int64_t steps) {
      if (options.progress) options.progress(done + point.length * step / std::max<int64_t>(1, steps), total);
    };
    run_point(engine, model, prompts, point, pending, options, prefill_progress,
              [&](size_t i, NiahCell cell, const CellTimes& times) {
                const size_t c = missing[p][i];
                if (options.log != nullptr)
                  options.log->append(
                      to_json(cell_key(contenders[c], point, options), contenders[c], point, cell, times));
                cells[c][p] = std::move(cell);
              });
    done += point.length;
    if (options.progress) options.progress(done, total);
  }
  return cells;
}

std::vector<NiahSummary> summarize_niah(const NiahGrid& grid, std::span<const Contender> contenders,
                                        const std::vector<std::vector<NiahCell>>& cells) {
  std::vector<NiahSummary> out;
  for (size_t c = 0; c < contenders.size(); ++c) out.push_back(summarize(grid, contenders[c].name, cells[c]));
  return out;
}

Heatmap niah_heatmap(const NiahGrid& grid, std::span<const NiahSummary> summaries) {
  Heatmap figure{.x_label = "prompt tokens", .y_label = "needle depth", .scale_label = "ROUGE-1 F1"};
  for (auto length : grid.lengths) figure.columns.push_back(fmt::format("{}", length));
  for (double depth : grid.depths) figure.rows.push_back(fmt::format("{:g} %", depth));
  for (const auto& s : summaries)
    figure.panels.push_back({fmt::format("{}: mean {:.1f}", s.name, s.overall), s.rouge1});
  return figure;
}

}  // namespace windowkv::eval
