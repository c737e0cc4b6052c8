#include "eval/ruler/tasks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "eval/ruler/drafts.h"
#include "windowkv/error.h"

namespace windowkv::eval::ruler {

namespace {

TaskInfo needles(std::string_view name, const Needles& settings) {
  return {.name = name, .tokens_to_generate = 128, .draft = [settings](const Request& request) {
            return draft_needles(settings, request);
          }};
}

TaskInfo qa(std::string_view name, std::optional<QaData> Source::*data) {
  return {.name = name,
          .tokens_to_generate = 32,
          .match = Match::kPart,
          .data = data,
          .draft = [data](const Request& request) { return draft_qa(*(request.source.*data), request); }};
}

/// scripts/synthetic.yaml; tokens_to_generate from scripts/data/synthetic/constants.py, the match from
/// scripts/eval/synthetic/constants.py.
const std::array<TaskInfo, 13>& table() {
  using enum Filler;
  using enum Magic;
  static const std::array<TaskInfo, 13> kTable = {
      needles("niah_single_1", {.filler = kNoise}),
      needles("niah_single_2", {.filler = kEssay}),
      needles("niah_single_3", {.filler = kEssay, .values = kUuids}),
      needles("niah_multikey_1", {.filler = kEssay, .keys_hidden = 4}),
      needles("niah_multikey_2", {.filler = kNeedles}),
      needles("niah_multikey_3", {.filler = kNeedles, .keys = kUuids, .values = kUuids}),
      needles("niah_multivalue", {.filler = kEssay, .values_a_key = 4}),
      needles("niah_multiquery", {.filler = kEssay, .keys_hidden = 4, .keys_asked = 4}),
      {.name = "vt",
       .tokens_to_generate = 30,
       .draft = [](const Request& request) { return draft_variable_tracking(/*hops=*/4, request); }},
      {.name = "cwe", .tokens_to_generate = 120, .task = Task::kAggregation, .draft = draft_common_words},
      {.name = "fwe", .tokens_to_generate = 50, .task = Task::kAggregation, .draft = draft_frequent_words},
      qa("qa_1", &Source::squad),
      qa("qa_2", &Source::hotpotqa)};
  return kTable;
}

}  // namespace

Random Request::random(std::string_view purpose) const {
  return Random(fmt::format("{}/{}/{}/{}", seed, task, index, purpose));
}

std::span<const TaskInfo> tasks() {
  return table();
}

const TaskInfo& find_task(std::string_view name) {
  const auto all = tasks();
  const auto found = std::find_if(all.begin(), all.end(), [&](const auto& t) { return t.name == name; });
  if (found != all.end()) return *found;
  std::vector<std::string_view> names;
  for (const auto& task : all) names.push_back(task.name);
  throw Error(fmt::format("unknown task \"{}\"; use {}", name, fmt::join(names, ", ")));
}

}  // namespace windowkv::eval::ruler
