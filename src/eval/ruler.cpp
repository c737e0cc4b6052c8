#include "eval/ruler.h"

#include <fmt/format.h>

#include <algorithm>

#include "eval/metrics.h"
#include "eval/prompt_grid.h"
#include "eval/ruler/fit.h"
#include "eval/words.h"
#include "windowkv/error.h"

namespace windowkv::eval::ruler {

using nlohmann::ordered_json;

namespace {

std::string cell_key(const Point& point, const Contender& contender, const RunOptions& options) {
  return fmt::format("{}/{}/{} tokens/{} {}", contender.name, point.task->name, point.length, point.index,
                     options.setup);
}

ordered_json row_of(const Point& point, const std::vector<std::string>& expected, const std::string& text) {
  return {{"task", point.task->name},
          {"length", point.length},
          {"index", point.index},
          {"outputs", expected},
          {"pred", text},
          {"score", score(point.task->match, text, expected)}};
}

Cell cell_of(const ordered_json& row) {
  return {row.at("pred"), row.at("score"), row.at("kept_share")};
}

size_t utf8_length(char32_t c) {
  if (c < 0x80) return 1;
  return c < 0x800 ? 2 : 3;  // no whitespace is beyond the Basic Multilingual Plane
}

}  // namespace

std::vector<Point> grid_points(std::span<const TaskInfo* const> tasks, std::span<const int64_t> lengths,
                               int64_t samples) {
  std::vector<Point> points;
  for (auto length : lengths)
    for (const auto* task : tasks)
      for (int64_t i = 0; i < samples; ++i) points.push_back({task, length, i});
  return points;
}

Samples::Samples(const Vocab& vocab, Source source, bool chat, uint64_t seed)
    : vocab_(vocab), source_(std::move(source)), seed_(seed) {
  if (chat) form_ = chat_form(vocab);
  source_.count_tokens = [this](std::string_view text) {
    return static_cast<int64_t>(vocab_.tokenize(text).size());
  };
}

Sample Samples::make(const Point& point) const {
  const auto& task = *point.task;
  const auto refuse = [&](const std::string& why) {
    return Error(fmt::format("{} at {} tokens: {}", task.name, point.length, why));
  };
  try {
    const auto draft = task.draft({source_, task.name, point.length, seed_, point.index});
    auto tokens_of = [&](const Text& text) {
      return vocab_.tokenize(form_.around(vocab_, text.input, text.answer_prefix));
    };
    auto cost = [&](int64_t units) {
      return static_cast<int64_t>(tokens_of(draft.text(units)).size()) + task.tokens_to_generate;
    };
    const auto units = largest_fitting(draft.min_units, draft.max_units, point.length, cost);
    if (!units) throw Error(fmt::format("too short; it needs {}", cost(draft.min_units)));
    if (*units == draft.max_units)
      throw Error(fmt::format("the haystack's {} words do not fill it; give a longer --haystack", *units));
    Sample sample{.text = draft.text(*units), .tokens = {}, .units = *units};
    sample.tokens = tokens_of(sample.text);
    sample.length =
        source_.count_tokens(sample.text.input + sample.text.answer_prefix) + task.tokens_to_generate;
    return sample;
  } catch (const Error& e) {
    throw refuse(e.what());
  }
}

ordered_json to_json(const Point& point, const Sample& sample) {
  return {
      {"task", point.task->name},
      {"max_seq_length", point.length},
      {"index", point.index},
      {"input", sample.text.input},
      {"outputs", sample.text.outputs},
      {"length", sample.length},
      {"length_w_model_temp", static_cast<int64_t>(sample.tokens.size()) + point.task->tokens_to_generate},
      {"answer_prefix", sample.text.answer_prefix}};
}

std::string postprocess(std::string_view answer) {
  std::string text(answer);
  for (auto& c : text)
    if (static_cast<unsigned char>(c) < ' ') c = '\n';
  const auto points = code_points(text);
  const auto first = std::find_if_not(points.begin(), points.end(), is_space);
  const auto last = std::find_if_not(points.rbegin(), std::make_reverse_iterator(first), is_space).base();
  size_t before = 0, after = 0;  // bytes of the blanks at the ends
  for (auto c = points.begin(); c != first; ++c) before += utf8_length(*c);
  for (auto c = last; c != points.end(); ++c) after += utf8_length(*c);
  return text.substr(before, text.size() - before - after);
}

double score(Match match, std::string_view answer, std::span<const std::string> outputs) {
  return 100 *
         (match == Match::kPart ? string_match_part(answer, outputs) : string_match_all(answer, outputs));
}

std::vector<std::vector<std::optional<Cell>>> run(Engine& engine, const Model& model, const Samples& samples,
                                                  std::span<const Point> points,
                                                  std::span<const Contender> contenders,
                                                  const RunOptions& options) {
  PromptGrid grid;
  grid.prompts = points.size();
  grid.key = [&](size_t p, const Contender& contender) { return cell_key(points[p], contender, options); };
  grid.size = [&](size_t p) { return points[p].length; };
  grid.make = [&](size_t p) -> GridPrompt {
    auto sample = samples.make(points[p]);
    GenerateOptions generation;
    generation.max_tokens = points[p].task->tokens_to_generate;
    return {std::move(sample.tokens), std::move(sample.text.input), points[p].task->task,
            std::move(generation),
            [&point = points[p], expected = std::move(sample.text.outputs)](const Answer& answer) {
              return row_of(point, expected, postprocess(answer.text));
            }};
  };
  grid.task = options.task;
  grid.log = options.log;
  grid.cancelled = options.cancelled;
  grid.progress = options.progress;
  grid.failed = [&](size_t p, const std::string& error) {
    if (options.failed) options.failed(points[p], error);
  };
  std::vector<std::vector<std::optional<Cell>>> cells;
  for (const auto& rows : run_grid(engine, model, grid, contenders)) {
    auto& of_contender = cells.emplace_back();
    for (const auto& row : rows)
      of_contender.push_back(row.is_null() ? std::nullopt : std::optional(read_row(row, cell_of)));
  }
  return cells;
}

std::optional<Mean> mean_of(std::span<const Point> points, std::span<const std::optional<Cell>> cells,
                            const TaskInfo& task, int64_t length) {
  Mean mean;
  for (size_t p = 0; p < points.size(); ++p) {
    if (points[p].task != &task || points[p].length != length || !cells[p]) continue;
    ++mean.samples;
    mean.empty += cells[p]->answer.empty() ? 1 : 0;
    mean.score += cells[p]->score;
    mean.kept_share += cells[p]->kept_share;
  }
  if (mean.samples == 0) return std::nullopt;
  mean.score /= static_cast<double>(mean.samples);
  mean.kept_share /= static_cast<double>(mean.samples);
  return mean;
}

}  // namespace windowkv::eval::ruler
