// windowkv ruler: RULER's tasks at lengths, under policies; or their prompts alone.
#include "eval/ruler.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/commands.h"
#include "cli/eval_report.h"
#include "cli/haystack.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/provenance.h"
#include "cli/report.h"
#include "cli/resumable.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

namespace ruler = eval::ruler;

struct RulerFlags {
  ModelFlags model;
  TaskFlags task;
  std::vector<int64_t> lengths = {4096};
  std::vector<std::string> tasks = {"all"};
  int64_t samples = 20;
  uint64_t seed = 42;
  std::string haystack;
  std::string squad;
  std::string hotpotqa;
  bool no_chat = false;
  ContenderFlags contenders;
  std::string out;
  std::string json;
  std::string markdown;
  std::string generate_only;

  const CLI::Option* tasks_option = nullptr;

  bool all_tasks() const { return std::find(tasks.begin(), tasks.end(), "all") != tasks.end(); }
};

/// The tasks to run, in RULER's order. Those whose data is not given are left out, which `notes` say, and
/// refused where they were asked for by name.
std::vector<const ruler::TaskInfo*> tasks_of(const RulerFlags& flags, const ruler::Source& source,
                                             std::vector<std::string>& notes) {
  std::set<const ruler::TaskInfo*> wanted;
  for (const auto& name : flags.tasks)
    if (name != "all") wanted.insert(&ruler::find_task(name));
  std::vector<const ruler::TaskInfo*> tasks;
  for (const auto& task : ruler::tasks()) {
    if (!flags.all_tasks() && !wanted.contains(&task)) continue;
    if (task.data != nullptr && !(source.*task.data)) {
      const auto why = fmt::format("{} needs {}", task.name,
                                   task.data == &ruler::Source::squad
                                       ? "SQuAD's questions; give its file with --squad FILE"
                                       : "HotpotQA's questions; give its file with --hotpotqa FILE");
      if (wanted.contains(&task)) throw Error(why);
      notes.push_back(why + "; skipped");
      continue;
    }
    tasks.push_back(&task);
  }
  return tasks;
}

/// The points of tasks and lengths for which at least one sample can be made; `reasons` receives why others
/// are left out. Throws Error where nothing is left.
std::vector<ruler::Point> usable_points(const ruler::Samples& samples,
                                        const std::vector<ruler::Point>& points, int64_t per_cell,
                                        std::vector<std::string>& reasons) {
  std::vector<ruler::Point> usable;
  Progress progress("ruler: checking lengths");
  for (size_t at = 0; at < points.size(); at += static_cast<size_t>(per_cell)) {
    const auto first = points.begin() + static_cast<std::ptrdiff_t>(at), last = first + per_cell;
    std::string reason;  // of the first
    const bool some = std::any_of(first, last, [&](const ruler::Point& point) {
      if (interrupted()) throw Cancelled();
      try {
        samples.make(point);
        return true;
      } catch (const Error& e) {
        if (reason.empty()) reason = e.what();
        return false;
      }
    });
    if (some)
      usable.insert(usable.end(), first, last);
    else
      reasons.push_back(std::move(reason));
    progress.update(static_cast<int64_t>(at), static_cast<int64_t>(points.size()));
  }
  progress.clear();
  if (usable.empty()) throw Error(reasons.empty() ? "no task left to run" : reasons.front());
  return usable;
}

/// All that an answer depends on beside policy, task, length and index, as a hash for the keys of results.
std::string setup_hash(const RulerFlags& flags, const std::string& model_hash, const std::string& haystack,
                       bool chat) {
  auto hash_of = [](const std::string& path) { return path.empty() ? "" : fnv1a64_of_file(path); };
  return fnv1a64(fmt::format("{} {} {} {} {} {} {} {}", WINDOWKV_VERSION, model_hash, fnv1a64(haystack), chat,
                             flags.seed, hash_of(flags.squad), hash_of(flags.hotpotqa), flags.task.text()));
}

/// Everything a report is made from.
struct RulerResults {
  const RulerFlags& flags;
  const std::vector<const ruler::TaskInfo*>& tasks;
  const std::vector<int64_t>& lengths;
  const std::vector<ruler::Point>& points;
  const std::vector<eval::Contender>& contenders;
  const std::vector<std::vector<std::optional<ruler::Cell>>>& cells;

  std::optional<ruler::Mean> mean(size_t contender, const ruler::TaskInfo& task, int64_t length) const {
    return ruler::mean_of(points, cells[contender], task, length);
  }
  /// Over the tasks at that length, RULER's "Avg."; none if none was run.
  std::optional<ruler::Mean> average(size_t contender, int64_t length) const {
    ruler::Mean sum;
    int64_t count = 0;
    for (const auto* task : tasks)
      if (const auto one = mean(contender, *task, length)) {
        ++count;
        sum.samples += one->samples;
        sum.empty += one->empty;
        sum.score += one->score;
        sum.kept_share += one->kept_share;
      }
    if (count == 0) return std::nullopt;
    sum.score /= static_cast<double>(count);
    sum.kept_share /= static_cast<double>(count);
    return sum;
  }
};

/// One table a length, tasks down and policies across, and one of the averages.
std::vector<Table> tables(const RulerResults& r) {
  std::vector<Table> all;
  auto add_row = [&](const std::string& title, auto cell) {
    auto& row = all.back().emplace_back(1, title);
    for (size_t c = 0; c < r.contenders.size(); ++c) row.push_back(cell(c));
  };
  auto add_table = [&](const std::string& title) {
    all.emplace_back();
    add_row(title, [&](size_t c) { return r.contenders[c].name; });
  };
  auto score = [](const std::optional<ruler::Mean>& mean) {
    return two_digits(mean ? std::optional(mean->score) : std::nullopt);
  };
  for (auto length : r.lengths) {
    add_table(fmt::format("{} tokens", length));
    for (const auto* task : r.tasks)
      add_row(std::string(task->name), [&](size_t c) { return score(r.mean(c, *task, length)); });
    add_row("average", [&](size_t c) { return score(r.average(c, length)); });
    add_row("kept", [&](size_t c) {
      const auto mean = r.average(c, length);
      return mean ? percent(mean->kept_share) : "-";
    });
  }
  if (r.lengths.size() < 2) return all;
  add_table("average");
  for (auto length : r.lengths)
    add_row(fmt::format("{}", length), [&](size_t c) { return score(r.average(c, length)); });
  return all;
}

/// The tables as `form` writes one, empty lines between.
std::string tables_text(const RulerResults& r, std::string (*form)(const Table&)) {
  std::string text;
  for (const auto& table : tables(r)) text += (text.empty() ? "" : "\n") + form(table);
  return text;
}

nlohmann::ordered_json summary_json(const RulerResults& r, const Model& model,
                                    const std::string& model_hash) {
  using nlohmann::ordered_json;
  ordered_json json = {{"provenance", facts_json(provenance(model, model_hash))},
                       {"samples", r.flags.samples},
                       {"seed", r.flags.seed},
                       {"task", r.flags.task.task}};
  auto row_of = [](const eval::Contender& contender, int64_t length, const ruler::Mean& mean) {
    return ordered_json{{"policy", contender.name},      {"length", length},        {"score", mean.score},
                        {"kept_share", mean.kept_share}, {"samples", mean.samples}, {"nulls", mean.empty}};
  };
  json["scores"] = json["averages"] = ordered_json::array();
  for (size_t c = 0; c < r.contenders.size(); ++c)
    for (auto length : r.lengths) {
      for (const auto* task : r.tasks)
        if (const auto mean = r.mean(c, *task, length)) {
          auto row = row_of(r.contenders[c], length, *mean);
          row["task"] = task->name;
          json["scores"].push_back(std::move(row));
        }
      if (const auto mean = r.average(c, length))
        json["averages"].push_back(row_of(r.contenders[c], length, *mean));
    }
  return json;
}

/// The samples as RULER's rows. Returns how many could not be made; warns of them.
size_t write_samples(const ruler::Samples& samples, const std::vector<ruler::Point>& points,
                     AtomicFile& file) {
  std::string text;
  size_t failed = 0;
  Progress progress("ruler");
  for (size_t p = 0; p < points.size(); ++p) {
    if (interrupted()) throw Cancelled();
    try {
      text += json_text(ruler::to_json(points[p], samples.make(points[p])));
    } catch (const Error& e) {
      progress.clear();
      warn(fmt::format("sample {} of {}; skipped", points[p].index, e.what()));
      ++failed;
    }
    progress.update(static_cast<int64_t>(p + 1), static_cast<int64_t>(points.size()));
  }
  progress.clear();
  file.commit(text);
  return failed;
}

void ruler_command(RulerFlags flags) {
  catch_interrupts();
  sort_unique(flags.lengths);
  const auto json_file = open_output(flags.json);
  const auto markdown_file = open_output(flags.markdown);
  const auto samples_file = open_output(flags.generate_only);
  ruler::Source source;
  if (!flags.squad.empty()) source.squad = ruler::read_squad(flags.squad);
  if (!flags.hotpotqa.empty()) source.hotpotqa = ruler::read_hotpotqa(flags.hotpotqa);
  const auto task = flags.task.choice();
  std::vector<std::string> notes;
  const auto tasks = tasks_of(flags, source, notes);
  std::string haystack;  // tasks with data of their own take none
  if (std::ranges::any_of(tasks, [](const auto* t) { return t->data == nullptr; }))
    source.essay = ruler::make_essay(
        haystack = read_haystack(flags.haystack.empty() ? default_haystack() : flags.haystack));

  const auto model = flags.model.load(/*weights=*/samples_file == nullptr);
  const bool chat = !flags.no_chat && model->vocab().has_chat_template();
  const auto contenders = eval::make_contenders(flags.contenders.policies, flags.contenders.budgets,
                                                model->hparams().n_full_layers());
  const ruler::Samples samples(model->vocab(), std::move(source), chat, flags.seed);
  std::vector<std::string> too_short;
  const auto points = usable_points(samples, ruler::grid_points(tasks, flags.lengths, flags.samples),
                                    flags.samples, too_short);
  for (const auto& note : notes) tell(fmt::format("windowkv: {}\n", note));
  for (const auto& reason : too_short) warn(reason + "; skipped");
  // Without their data, tasks are only missed by who asked for them.
  bool left_out = !too_short.empty() || (flags.tasks_option->count() > 0 && !notes.empty());
  if (samples_file) {
    left_out = write_samples(samples, points, *samples_file) > 0 || left_out;
    if (left_out) throw ExitWith{kLeftOutExit};
    return;
  }
  check_context(model->hparams(), flags.lengths.back());
  const auto model_hash = fnv1a64_of_file(model->path());
  const auto log = open_log(flags.out);

  Engine engine(*model, flags.model.engine());
  Progress progress("ruler");
  ruler::RunOptions options;
  options.task = task;
  options.log = log.get();
  options.setup = setup_hash(flags, model_hash + calibration_key(*model), haystack, chat);
  options.cancelled = interrupted;
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  options.failed = [&](const ruler::Point& point, const std::string& error) {
    progress.clear();
    warn(fmt::format("sample {} of {}; skipped", point.index, error));
    left_out = true;
  };
  const auto cells = ruler::run(engine, *model, samples, points, contenders, options);
  progress.clear();
  const auto finished = static_cast<size_t>(
      std::count_if(cells[0].begin(), cells[0].end(), [](const auto& cell) { return cell.has_value(); }));
  const RulerResults results{flags, tasks, flags.lengths, points, contenders, cells};
  if (finished > 0) print(tables_text(results, table_text));
  end_if_interrupted(finished, points.size(), "samples", {flags.json, flags.markdown},
                     how_to_continue(flags.out, log.get()));
  if (json_file) json_file->commit(json_text(summary_json(results, *model, model_hash), 2));
  if (markdown_file) markdown_file->commit(tables_text(results, markdown_table));
  if (left_out) throw ExitWith{kLeftOutExit};
}

}  // namespace

void add_ruler(CLI::App& app) {
  auto flags = std::make_shared<RulerFlags>();
  auto* command = app.add_subcommand("ruler", "Run RULER's 13 long-context tasks at several lengths");
  std::vector<std::string_view> names;
  for (const auto& task : ruler::tasks()) names.push_back(task.name);
  command->footer(
      "RULER (arXiv 2404.06654) makes prompts of any length, counted with the model's tokenizer, that\n"
      "ask for needles, variables, frequent words and answers to questions. Scores are 0 to 100: the\n"
      "percentage of the expected strings that are in the answer; for qa_1 and qa_2, whether any of them\n"
      "is. Published scores are means over 500 samples with Paul Graham's essays as the text\n"
      "(--haystack).\n"
      "Exit code 0: everything ran; 3: some tasks do not fit a length, or were asked for and have no data,\n"
      "and are listed; 130: Ctrl-C.\n"
      "Examples:\n"
      "  windowkv ruler -m model.gguf -l 4k,8k --policies full,windowkv,snapkv --out ruler.jsonl\n"
      "  windowkv ruler -m model.gguf -l 16k --tasks qa_1,qa_2 --squad dev-v2.0.json --hotpotqa "
      "hotpot_dev_distractor_v1.json\n"
      "  windowkv ruler -m model.gguf -l 8k --samples 500 --generate-only samples.jsonl");
  flags->model.add_to(*command);

  auto* test = command->add_option_group("Test");
  add_lengths(*test, "-l,--lengths", flags->lengths,
              "lengths in tokens, of prompt, chat template and answer together; 4k is 4,096");
  flags->tasks_option =
      test->add_option("--tasks", flags->tasks, fmt::format("all, or any of {}", fmt::join(names, ", ")))
          ->delimiter(',')
          ->capture_default_str();
  test->add_option("--samples", flags->samples, "prompts per task and length")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  test->add_option("--seed", flags->seed, "random seed: what is hidden, and where")->capture_default_str();
  test->add_option(
          "--haystack", flags->haystack,
          "text file, or folder of .txt files, that most tasks hide needles in (default: the bundled "
          "novel)")
      ->type_name("FILE|FOLDER");
  test->add_option("--squad", flags->squad, "SQuAD's JSON file, for qa_1; without it, qa_1 is skipped")
      ->type_name("FILE");
  test->add_option("--hotpotqa", flags->hotpotqa,
                   "HotpotQA's JSON file, for qa_2; without it, qa_2 is skipped")
      ->type_name("FILE");
  test->add_flag("--no-chat,--raw", flags->no_chat, "do not apply the model's chat template");

  flags->contenders.add_to(*command);
  flags->task.add_to(*command, /*has_rows=*/true);

  auto* output = command->add_option_group("Output");
  auto* out = output
                  ->add_option("-o,--out", flags->out,
                               "write each result as a JSON line as soon as it is ready; running the same "
                               "command again continues from the file")
                  ->type_name("FILE");
  auto* json = output->add_option("--json", flags->json, "write the tables as JSON")->type_name("FILE");
  auto* markdown =
      output->add_option("--markdown", flags->markdown, "write the tables as Markdown")->type_name("FILE");
  output
      ->add_option("--generate-only", flags->generate_only,
                   "only write the prompts, as JSON lines with RULER's fields")
      ->type_name("FILE")
      ->excludes(out, json, markdown);
  command->callback([flags] { ruler_command(*flags); });
}

}  // namespace windowkv::cli
