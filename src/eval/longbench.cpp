#include "eval/longbench.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "eval/prompt_form.h"
#include "eval/stats.h"
#include "support/utf8.h"
#include "windowkv/error.h"

namespace windowkv::eval {

namespace {

using nlohmann::ordered_json;

int64_t default_length(const Model& model, const Sample& sample, bool chat) {
  constexpr int64_t kMargin = 16;  // text cut and put together again may have a few tokens more
  const auto& vocab = model.vocab();
  int64_t length = model.hparams().n_ctx_train - sample.max_new_tokens;
  if (chat)
    length -=
        static_cast<int64_t>(vocab.tokenize(vocab.apply_chat_template({{"user", "x"}})).size()) + kMargin;
  return length;
}

/// The text of the first and last tokens; characters that the cut divides are left out.
std::string middle_cut(const Vocab& vocab, const std::vector<Token>& tokens, int64_t limit) {
  const int64_t half = limit / 2;
  auto head = vocab.text({tokens.begin(), tokens.begin() + half});
  auto tail = vocab.text({tokens.end() - half, tokens.end()});
  head.resize(head.size() - utf8_incomplete_tail(head));
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; };
  tail.erase(tail.begin(), std::find_if_not(tail.begin(), tail.end(), continues));
  return head + tail;
}

/// Whether a chat template is in the text already: the model's own, or marks that it knows.
bool is_templated(const Vocab& vocab, const PromptForm& form, std::string_view text,
                  std::span<const Token> tokens) {
  if (!form.before.empty() && text.starts_with(form.before)) return true;
  return std::any_of(tokens.begin(), tokens.end(), [&](Token token) {
    return vocab.piece(token).empty() && text.find(vocab.piece(token, /*special=*/true)) != text.npos;
  });
}

std::string key_of(const Sample& sample, const std::string& setup) {
  return fmt::format("{}/{} {}", sample.dataset, sample.id, setup);
}

Outcome outcome_of(const ordered_json& row) {
  if (row.contains("error")) return {.score = std::nullopt, .error = row.at("error").get<std::string>()};
  return {.score = row.at("score").get<double>(), .kept_share = row.at("kept_share").get<double>()};
}

ordered_json row_of(const std::string& key, const Sample& sample, const Contender& contender,
                    const TaskDecision& task) {
  return {{"key", key},
          {"dataset", sample.dataset},
          {"_id", sample.id},
          {"kv", contender.kv},
          {"kv_budget", contender.budget},
          {"task", to_string(task.task)},
          {"task_source", to_string(task.source)},
          {"task_probability", task.probability}};
}

/// The result of an earlier run; null where there is none.
const ordered_json* earlier(const JsonlLog* log, const std::string& key) {
  return log == nullptr ? nullptr : log->find(key);
}

ordered_json answer_row(ordered_json row, const Sample& sample, const Answer& answer) {
  row["score"] = score(sample, answer.text);
  row["kept_share"] = answer.kept_share();
  row["prediction"] = answer.text;
  row["answers"] = sample.answers;
  row["prompt_tokens"] = answer.prompt_tokens;
  row["generated_tokens"] = answer.generated_tokens;
  row["kv_bytes"] = answer.kv.kept;
  row["kv_bytes_full"] = answer.kv.full;
  return row;
}

/// The row of the log for a sample run now: its answer, or, under a key of its own so that the sample is not
/// taken for done, its error.
ordered_json run_sample(Engine& engine, const Model& model, const Sample& sample, const Contender& contender,
                        const std::string& key, const LongbenchOptions& options,
                        const std::function<void(int64_t, int64_t)>& progress) {
  const auto task = task_for(contender, options.task, sample.task, sample.prompt);
  std::string error;
  try {
    auto generation = sample_generation(model.vocab(), sample);
    generation.cancelled = options.cancelled;
    const auto tokens = sample_tokens(model, sample, options.max_length);
    const std::unique_ptr<Policy> policies[] = {contender.make(task.task)};
    auto prefill = prefill_shared(engine, model, tokens, policies, generation, progress);
    return answer_row(row_of(key, sample, contender, task), sample,
                      answer(engine, model, tokens, prefill, 0, generation));
  } catch (const Cancelled&) {
    throw;
  } catch (const std::bad_alloc&) {
    error = "out of memory";
  } catch (const std::exception& e) {
    error = e.what();
  }
  if (options.failed) options.failed(sample, error);
  auto row = row_of("failed " + key, sample, contender, task);
  row["error"] = error;
  return row;
}

ordered_json number(const std::optional<double>& value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

ordered_json bins_json(const BinScores& bins) {
  ordered_json out;
  for (size_t b = 0; b < bins.size(); ++b) out[std::string(kLengthBins[b])] = number(bins[b]);
  return out;
}

std::optional<double> mean_of_any(const std::vector<double>& values) {
  return values.empty() ? std::nullopt : std::optional(mean(values));
}

}  // namespace

GenerateOptions sample_generation(const Vocab& vocab, const Sample& sample) {
  GenerateOptions options;
  options.max_tokens = sample.max_new_tokens;
  options.stop = sample.stop;
  if (sample.newline_ends) {
    // As pred.py has it: the last token that the text "\n" is made of, and min_length one above the prompt's.
    options.end_tokens = {vocab.tokenize("\n").back()};
    options.min_tokens = 1;
  }
  return options;
}

std::vector<Token> sample_tokens(const Model& model, const Sample& sample, int64_t max_length) {
  const auto& vocab = model.vocab();
  bool chat = sample.chat && vocab.has_chat_template();
  auto tokens = vocab.tokenize(sample.prompt);
  PromptForm form;
  if (chat && sample.own_prompt) {
    form = chat_form(vocab);
    chat = !is_templated(vocab, form, sample.prompt, tokens);
  }
  const auto n = static_cast<int64_t>(tokens.size());
  const bool unlimited = max_length == 0 && sample.own_prompt;
  const int64_t limit = unlimited ? n : max_length > 0 ? max_length : default_length(model, sample, chat);
  if (n > limit && limit < 2)
    throw Error(fmt::format("an answer of {} tokens leaves no room for a prompt in the trained context of {}",
                            sample.max_new_tokens, model.hparams().n_ctx_train));
  if (!chat && sample.answer_prefix.empty()) return truncate_middle(std::move(tokens), limit);
  const auto text = n > limit ? middle_cut(vocab, tokens, limit) : sample.prompt;
  if (!chat) return vocab.tokenize(text + sample.answer_prefix);
  if (sample.own_prompt) return vocab.tokenize(form.around(vocab, text, sample.answer_prefix));
  return vocab.tokenize(vocab.apply_chat_template({{"user", text}}));
}

std::vector<Outcome> run_samples(Engine& engine, const Model& model, std::span<const Sample> samples,
                                 const Contender& contender, const LongbenchOptions& options) {
  int64_t done = 0, total = 0;
  for (const auto& sample : samples)
    if (earlier(options.log, key_of(sample, options.setup)) == nullptr)
      total += static_cast<int64_t>(sample.prompt.size());

  std::vector<Outcome> outcomes;
  for (const auto& sample : samples) {
    const auto key = key_of(sample, options.setup);
    if (const auto* row = earlier(options.log, key)) {
      outcomes.push_back(read_row(*row, outcome_of));
      continue;
    }
    if (options.cancelled && options.cancelled()) break;
    ordered_json row;
    try {
      row = run_sample(engine, model, sample, contender, key, options, [&](int64_t step, int64_t steps) {
        if (options.progress)
          options.progress(done + static_cast<int64_t>(sample.prompt.size()) * step / (steps + 1), total);
      });
    } catch (const Cancelled&) {
      break;
    }
    outcomes.push_back(outcome_of(row));
    if (options.log != nullptr && !options.log->has(row.at("key"))) options.log->append(std::move(row));
    done += static_cast<int64_t>(sample.prompt.size());
    if (options.progress) options.progress(done, total);
  }
  return outcomes;
}

LongbenchSummary summarize(std::span<const Sample> samples, std::span<const Outcome> outcomes) {
  struct Values {
    std::vector<double> scores, kept;
    std::array<std::vector<double>, kLengthBins.size()> bins;
  };
  LongbenchSummary summary;
  std::map<std::string, Values> values;
  std::vector<double> kept;
  for (size_t i = 0; i < samples.size(); ++i) {
    const auto& name = samples[i].dataset;
    if (!values.contains(name)) summary.datasets.push_back({.dataset = name, .task = samples[i].task});
    auto& of_dataset = values[name];
    auto& line = *std::find_if(summary.datasets.begin(), summary.datasets.end(),
                               [&](const DatasetScore& d) { return d.dataset == name; });
    if (!outcomes[i].score) {
      ++line.failed, ++summary.failed;
      continue;
    }
    ++line.rows, ++summary.rows;
    of_dataset.scores.push_back(*outcomes[i].score);
    of_dataset.kept.push_back(outcomes[i].kept_share);
    if (const auto length = samples[i].length)
      of_dataset.bins[*length < 4000 ? 0 : *length < 8000 ? 1 : 2].push_back(*outcomes[i].score);
    kept.push_back(outcomes[i].kept_share);
  }
  std::vector<double> all, localization, aggregation;
  std::array<std::vector<double>, kLengthBins.size()> bins;
  for (auto& line : summary.datasets) {
    line.score = mean_of_any(values[line.dataset].scores);
    line.kept_share = mean(values[line.dataset].kept);
    if (!line.score) continue;
    all.push_back(*line.score);
    for (size_t b = 0; b < bins.size(); ++b) {
      line.bins[b] = mean_of_any(values[line.dataset].bins[b]);
      if (line.bins[b]) bins[b].push_back(*line.bins[b]);
    }
    (line.task == Task::kLocalization ? localization : aggregation).push_back(*line.score);
  }
  summary.localization = mean_of_any(localization);
  summary.aggregation = mean_of_any(aggregation);
  summary.overall = mean_of_any(all);
  for (size_t b = 0; b < bins.size(); ++b) summary.bins[b] = mean_of_any(bins[b]);
  summary.kept_share = mean(kept);
  return summary;
}

bool LongbenchSummary::has_bins() const {
  return std::any_of(bins.begin(), bins.end(), [](const auto& score) { return score.has_value(); });
}

ordered_json LongbenchSummary::json() const {
  ordered_json out = {{"datasets", ordered_json::array()}};
  for (const auto& d : datasets)
    out["datasets"].push_back({{"dataset", d.dataset},
                               {"group", to_string(d.task)},
                               {"rows", d.rows},
                               {"failed", d.failed},
                               {"score", number(d.score)},
                               {"kept_share", d.kept_share}});
  if (has_bins()) {
    for (size_t i = 0; i < datasets.size(); ++i) out["datasets"][i]["bins"] = bins_json(datasets[i].bins);
    out["bins"] = bins_json(bins);
  }
  out["localization"] = number(localization);
  out["aggregation"] = number(aggregation);
  out["overall"] = number(overall);
  out["kept_share"] = kept_share;
  out["rows"] = rows;
  out["failed"] = failed;
  return out;
}

}  // namespace windowkv::eval
