#include "eval/prompt_grid.h"

#include <algorithm>
#include <optional>

#include "windowkv/error.h"

namespace windowkv::eval {

using nlohmann::ordered_json;

namespace {

/// A contender at a prompt.
struct Entry {
  size_t contender;
  TaskDecision task;
  bool by_task;  ///< its policy depends on the task
};

ordered_json to_json(const TaskDecision& task) {
  return {
      {"task", to_string(task.task)}, {"source", to_string(task.source)}, {"probability", task.probability}};
}

ordered_json row_of(std::string key, const Contender& contender, const Entry& entry, const GridPrompt& prompt,
                    const Answer& answer) {
  ordered_json row = {{"key", std::move(key)},
                      {"policy", policy_in(contender.name)},
                      {"budget", contender.kv == "full" ? ordered_json() : ordered_json(contender.budget)}};
  row.update(prompt.row(answer));
  row.update({{"task_decision", entry.by_task ? to_json(entry.task) : ordered_json()},
              {"prompt_tokens", answer.prompt_tokens},
              {"generated_tokens", answer.generated_tokens},
              {"kept_share", answer.kept_share()},
              {"kept_bytes", answer.kv.kept},
              {"prefill_ms", answer.prefill_ms},
              {"prefill_shared_by", answer.prefill_shared_by},
              {"decode_ms", answer.decode_ms}});
  return row;
}

}  // namespace

std::vector<std::vector<ordered_json>> run_grid(Engine& engine, const Model& model, const PromptGrid& grid,
                                                std::span<const Contender> contenders) {
  std::vector<std::vector<ordered_json>> rows(contenders.size(), std::vector<ordered_json>(grid.prompts));
  std::vector<std::vector<size_t>> missing(grid.prompts);  // contenders still to run, by prompt
  int64_t total = 0, done = 0;
  for (size_t p = 0; p < grid.prompts; ++p) {
    for (size_t c = 0; c < contenders.size(); ++c) {
      const auto* row = grid.log != nullptr ? grid.log->find(grid.key(p, contenders[c])) : nullptr;
      if (row != nullptr)
        rows[c][p] = *row;
      else
        missing[p].push_back(c);
    }
    if (!missing[p].empty()) total += grid.size(p);
  }
  auto report = [&](int64_t now) {
    if (grid.progress) grid.progress(now, total);
  };
  auto run = [&](size_t p, const GridPrompt& prompt) {
    std::vector<std::unique_ptr<Policy>> policies;
    std::vector<Entry> entries;
    for (size_t c : missing[p]) {
      const auto task = task_for(contenders[c], grid.task, prompt.task, prompt.text);
      policies.push_back(contenders[c].make(task.task));
      entries.push_back({c, task, policies.back()->config() != nullptr});
    }
    auto generation = prompt.generation;
    generation.cancelled = grid.cancelled;
    auto prefill =
        prefill_shared(engine, model, prompt.tokens, policies, generation, [&](int64_t step, int64_t steps) {
          report(done + grid.size(p) * step / std::max<int64_t>(1, steps));
        });
    for (size_t i = 0; i < policies.size(); ++i) {
      const size_t c = entries[i].contender;
      rows[c][p] = row_of(grid.key(p, contenders[c]), contenders[c], entries[i], prompt,
                          answer(engine, model, prompt.tokens, prefill, i, generation));
      if (grid.log != nullptr) grid.log->append(rows[c][p]);
    }
  };
  // Of a prompt that is not finished, what some contenders said would only skew the comparison.
  auto leave_out = [&](size_t p) {
    for (auto& of_contender : rows) of_contender[p] = nullptr;
  };
  bool stopped = false;
  for (size_t p = 0; p < grid.prompts; ++p) {
    if (missing[p].empty()) continue;
    if (stopped || (grid.cancelled && grid.cancelled())) {
      stopped = true;
      leave_out(p);
      continue;
    }
    std::optional<GridPrompt> prompt;
    try {
      prompt = grid.make(p);
    } catch (const Error& e) {
      if (!grid.failed) throw;
      grid.failed(p, e.what());
    }
    try {
      if (prompt) run(p, *prompt);
    } catch (const Cancelled&) {
      stopped = true;
      leave_out(p);
      continue;
    }
    done += grid.size(p);
    report(done);
  }
  return rows;
}

}  // namespace windowkv::eval
