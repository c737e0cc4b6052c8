// windowkv classify: which task a prompt asks for; how good a classifier is; training one.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/resumable.h"
#include "cli/samples.h"
#include "eval/json_row.h"
#include "eval/longbench.h"
#include "eval/task_report.h"
#include "eval/task_rows.h"
#include "eval/task_trainer.h"
#include "support/clock.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

using nlohmann::ordered_json;

struct ClassifyFlags {
  ClassifierFlags classifier;
  std::string text;
  std::string file;
  std::string jsonl;
  size_t why = 0;
  bool json = false;
  // judging
  std::vector<std::string> eval;
  std::vector<std::string> data;
  size_t errors = 0;
  int bench = 0;
  // training
  std::vector<std::string> train;
  std::vector<std::string> valid;
  std::string phrasings;
  int copies = 18;
  std::string leave_out;
  std::string out;
};

const TaskClassifier& or_builtin(const std::shared_ptr<const TaskClassifier>& classifier) {
  return classifier ? *classifier : TaskClassifier::builtin();
}

std::string one_line(std::string_view text) {
  std::string out;
  for (const char c : text) out += c == '\n' || c == '\r' || c == '\t' ? ' ' : c;
  return out;
}

ordered_json decision_json(const TaskClassifier& classifier, const ClassifyFlags& flags,
                           std::string_view text) {
  const auto decision = decide_task(classifier, text, flags.classifier.threshold);
  ordered_json json = {{"task", to_string(decision.task)},
                       {"source", to_string(decision.source)},
                       {"probability", decision.probability},
                       {"aggregation_probability",
                        decision.probability == 0 ? 0.5 : classifier.aggregation_probability(text)}};
  if (flags.why > 0) {
    json["why"] = ordered_json::array();
    for (const auto& reason : classifier.reasons(text, flags.why))
      json["why"].push_back({{"feature", reason.text}, {"weight", reason.weight}});
  }
  return json;
}

void show_one(const TaskClassifier& classifier, const ClassifyFlags& flags, const std::string& text) {
  if (flags.json) return print(json_text(decision_json(classifier, flags, text), 2));
  const auto decision = decide_task(classifier, text, flags.classifier.threshold);
  print(fmt::format("{} ({})\n", to_string(decision.task), describe(decision)));
  if (flags.why == 0) return;
  const auto reasons = classifier.reasons(text, flags.why);
  if (reasons.empty()) throw Error("--why: this classifier has no features to show");
  for (const auto& reason : reasons)
    print(fmt::format("{:+.2f}  {:<12}  {}\n", reason.weight,
                      reason.weight > 0 ? "aggregation" : "localization", reason.text));
}

/// Every line's "text" (or "prompt"), as JSON lines with the line's number.
void show_lines(const TaskClassifier& classifier, const ClassifyFlags& flags) {
  const auto content = read_file(flags.jsonl);
  for (const auto& [number, line] : lines_of(content)) {
    if (interrupted()) throw Cancelled();
    ordered_json json = {{"line", number}};
    try {
      const auto row = eval::json_row(line);
      if (!row.contains("text") && !row.contains("prompt")) throw Error("no \"text\" and no \"prompt\"");
      json.update(
          decision_json(classifier, flags, eval::text_field(row, row.contains("text") ? "text" : "prompt")));
    } catch (const Error& e) {
      throw Error(fmt::format("{}:{}: {}", flags.jsonl, number, e.what()));
    }
    print(json_text(json));
  }
}

/// The labelled prompts of --eval, and the rows of --data under their own tasks. `left_out` receives whether
/// some rows are broken.
std::vector<eval::TaskRow> labelled_rows(const ClassifyFlags& flags, bool& left_out) {
  auto rows = eval::load_task_rows(flags.eval);
  if (!flags.data.empty()) {
    auto data = read_samples(flags.data);
    left_out = !data.broken.empty();
    for (auto& sample : data.samples)
      rows.push_back({std::move(sample.prompt), sample.task, "data/" + sample.dataset});
  }
  if (rows.empty()) throw Error("no labelled prompt in the files given");
  return rows;
}

/// By row; on Ctrl-C of those before.
std::vector<eval::TaskOutcome> classify_rows(const TaskClassifier& classifier,
                                             std::span<const eval::TaskRow> rows) {
  std::vector<eval::TaskOutcome> outcomes;
  Progress progress("classify");
  for (const auto& row : rows) {
    if (interrupted()) break;
    outcomes.push_back({row.task, classifier.aggregation_probability(row.text), row.source});
    progress.update(static_cast<int64_t>(outcomes.size()), static_cast<int64_t>(rows.size()));
  }
  return outcomes;
}

std::string percent(double share) {
  return fmt::format("{:.1f}", 100 * share);
}

std::string score_tables(std::span<const eval::TaskOutcome> outcomes, bool families) {
  std::vector<std::vector<std::string>> rows = {{"source", "prompts", "accuracy", "loc. recall",
                                                 "loc. precision", "loc. F1", "agg. recall", "agg. precision",
                                                 "agg. F1"}};
  const auto add = [&](const std::string& name, const eval::TaskScores& s) {
    rows.push_back({name, fmt::format("{}", s.rows), percent(s.accuracy())});
    for (const auto& c : {s.localization, s.aggregation})
      for (const double value : {c.recall, c.precision, c.f1})
        rows.back().push_back(c.rows == 0 ? "-" : percent(value));
  };
  for (const auto& [name, scores] : eval::score_by_source(outcomes, families)) add(name, scores);
  const auto all = eval::score_tasks(outcomes);
  add("all", all);
  std::vector<std::vector<std::string>> bins = {{"probability", "prompts", "mean", "accuracy"}};
  for (const auto& b : all.bins)
    bins.push_back({fmt::format("{:.2f}-{:.2f}", b.from, b.to), fmt::format("{}", b.rows),
                    percent(b.confidence), percent(b.accuracy)});
  return fmt::format("{}\n{}calibration error {:.1f} %\n", table_text(rows), table_text(bins),
                     100 * all.calibration_error);
}

/// The surest mistakes, so that they can be read.
void show_errors(std::span<const eval::TaskRow> rows, std::span<const eval::TaskOutcome> outcomes,
                 size_t count) {
  std::vector<size_t> wrong;
  for (size_t i = 0; i < outcomes.size(); ++i)
    if (outcomes[i].predicted() != outcomes[i].truth) wrong.push_back(i);
  std::stable_sort(wrong.begin(), wrong.end(),
                   [&](size_t a, size_t b) { return outcomes[a].confidence() > outcomes[b].confidence(); });
  wrong.resize(std::min(wrong.size(), count));
  for (const auto i : wrong) {
    constexpr size_t kShown = 200;
    const std::string_view text = rows[i].text;
    print(fmt::format("\n{}: {} classified as {}, p = {:.2f}\n  {}\n  ... {}\n", rows[i].source,
                      to_string(outcomes[i].truth), to_string(outcomes[i].predicted()),
                      outcomes[i].confidence(), one_line(text.substr(0, kShown)),
                      one_line(text.substr(text.size() - std::min(text.size(), kShown)))));
  }
}

void judge(const TaskClassifier& classifier, const ClassifyFlags& flags) {
  bool left_out = false;
  const auto rows = labelled_rows(flags, left_out);
  const auto outcomes = classify_rows(classifier, rows);
  const bool families = flags.data.empty();
  if (!flags.json) {
    if (!outcomes.empty()) print(score_tables(outcomes, families));
    end_if_interrupted(outcomes.size(), rows.size(), "prompts");
    show_errors(rows, outcomes, flags.errors);
  } else {
    if (outcomes.size() < rows.size()) throw Cancelled();
    ordered_json json = {{"classifier", classifier.name()}, {"all", to_json(eval::score_tasks(outcomes))}};
    for (const auto& [name, scores] : eval::score_by_source(outcomes, families))
      json["sources"][name] = to_json(scores);
    print(json_text(json, 2));
  }
  if (left_out) throw ExitWith{kLeftOutExit};
}

/// Time of a prompt of each length, the fastest of `rounds` and their median.
void bench(const TaskClassifier& classifier, int rounds) {
  std::vector<std::vector<std::string>> rows = {{"prompt bytes", "median ms", "fastest ms"}};
  for (const size_t bytes : {2'000u, 20'000u, 200'000u, 2'000'000u}) {
    std::string text = "Answer from the document.\n\n";
    for (size_t i = 0; text.size() < bytes; ++i)
      text += fmt::format("Entry {}: the {} was moved from shelf {} to {}, as agreed.{}", i,
                          i % 7 == 0 ? "lamp" : "book", i % 90, i % 83, i % 5 == 0 ? "\n" : " ");
    text += "\n\nQuestion: where is the lamp?\nAnswer:";
    std::vector<double> times;
    for (int i = 0; i < rounds && !interrupted(); ++i) {
      const auto start = Clock::now();
      classifier.aggregation_probability(text);
      times.push_back(ms_since(start));
    }
    if (times.empty()) throw Cancelled();
    std::sort(times.begin(), times.end());
    rows.push_back({fmt::format("{}", text.size()), fmt::format("{:.3f}", times[times.size() / 2]),
                    fmt::format("{:.3f}", times.front())});
  }
  print(table_text(rows));
}

void train(const ClassifyFlags& flags) {
  if (flags.out.empty() && flags.leave_out.empty())
    throw Error("--train needs --out FILE to write the classifier to");
  const auto file = open_output(flags.out);
  auto rows = eval::load_task_rows(flags.train);
  const auto valid = eval::load_task_rows(flags.valid);
  std::vector<eval::TaskRow> held_out;
  if (!flags.leave_out.empty()) {
    const auto first = std::stable_partition(rows.begin(), rows.end(), [&](const eval::TaskRow& r) {
      return !r.source.starts_with(flags.leave_out);
    });
    held_out.assign(std::make_move_iterator(first), std::make_move_iterator(rows.end()));
    rows.erase(first, rows.end());
    if (held_out.empty())
      throw Error(fmt::format("--leave-out {}: no source has this prefix", flags.leave_out));
  }
  if (!flags.phrasings.empty()) {
    auto more = eval::rows_of_phrasings(flags.phrasings, rows, flags.copies);
    rows.insert(rows.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  }
  Progress progress("train");
  eval::TrainOptions options;
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  options.cancelled = interrupted;
  auto model = run_resumable(progress, "", [&] { return eval::train_task_model(rows, options); });
  if (!valid.empty()) eval::calibrate(model, valid);

  const auto& judged = held_out.empty() ? valid : held_out;
  std::vector<eval::TaskOutcome> outcomes;
  outcomes.reserve(judged.size());
  for (const auto& row : judged)
    outcomes.push_back({row.task, sigmoid(model.logit(extract_features(row.text))), row.source});
  print(fmt::format("trained on {} prompts", rows.size()));
  print(judged.empty()
            ? "\n"
            : fmt::format("; on the {} {} prompts:\n\n{}", judged.size(),
                          held_out.empty() ? "validation" : "left-out", score_tables(outcomes, true)));
  if (file) file->commit(model.to_bytes());
}

/// The text of -f or of a pipe, and -p behind it.
std::string prompt_text(const ClassifyFlags& flags) {
  check_utf8(flags.text, "-p");
  auto text = read_document(flags.file, /*text_follows=*/!flags.text.empty());
  if (text.empty() && flags.text.empty())
    throw Error(flags.file.empty() ? "nothing to classify; give -p TEXT, -f FILE, --jsonl FILE, --eval FILE "
                                     "or --train FILE"
                                   : "the prompt is empty");
  return text + (text.empty() || flags.text.empty() ? "" : "\n\n") + flags.text;
}

/// Each of these is the whole work of one call.
void check_modes(const ClassifyFlags& flags) {
  const bool prompt = !flags.text.empty() || !flags.file.empty();
  const bool judged = !flags.eval.empty() || !flags.data.empty();
  const int modes = prompt + !flags.jsonl.empty() + judged + (flags.bench > 0) + !flags.train.empty();
  if (modes > 1)
    throw Error(
        "give one of these: a prompt with -p and -f, --jsonl, --eval and --data, --bench, or --train");
  if (flags.errors > 0 && !judged) throw Error("--errors needs --eval FILE or --data PATH");
  if (flags.why > 0 && !prompt && flags.jsonl.empty() && modes > 0)
    throw Error("--why explains the prompts of -p, -f and --jsonl only");
}

void classify(const ClassifyFlags& flags) {
  catch_interrupts();
  check_modes(flags);
  if (!flags.train.empty()) return train(flags);
  const auto loaded = flags.classifier.load();
  const auto& classifier = or_builtin(loaded);
  if (!flags.eval.empty() || !flags.data.empty()) return judge(classifier, flags);
  if (flags.bench > 0) return bench(classifier, flags.bench);
  if (!flags.jsonl.empty()) return show_lines(classifier, flags);
  show_one(classifier, flags, prompt_text(flags));
}

}  // namespace

void add_classify(CLI::App& app) {
  auto flags = std::make_shared<ClassifyFlags>();
  auto* command =
      app.add_subcommand("classify", "Classify a prompt as a localization or an aggregation task");
  command->footer(
      "Localization: the answer is in a few places of the prompt (questions, lookup). Aggregation: it\n"
      "needs all of the prompt (summaries, few-shot examples, counting, code). Only the beginning and\n"
      "the end of a prompt are read, however long it is.\n"
      "Exit code 3, of --data: some samples were broken, and are listed.\n"
      "Examples:\n"
      "  windowkv classify -f book.txt -p \"Who sent the letter?\" --why 8\n"
      "  windowkv classify --jsonl prompts.jsonl > tasks.jsonl\n"
      "  windowkv classify --eval labelled.jsonl --errors 5\n"
      "  windowkv classify --train mine.jsonl --valid mine-valid.jsonl --out mine.task\n"
      "  windowkv run -m model.gguf -f book.txt -p \"Sum up.\" --classifier mine.task");
  auto* input = command->add_option_group("Prompt");
  input
      ->add_option("-p,--prompt", flags->text,
                   "prompt text; follows the text of -f or, without -f, of a pipe, if there is any")
      ->type_name("TEXT");
  input->add_option("-f,--file", flags->file, "read the prompt from a file, and no pipe; - is standard input")
      ->type_name("FILE");
  input
      ->add_option("--jsonl", flags->jsonl,
                   "JSON lines with a \"text\" or a \"prompt\"; prints one JSON line for each")
      ->type_name("FILE");
  input->add_option("--why", flags->why, "show the N features with the most weight")->type_name("N");
  input->add_flag("--json", flags->json, "print JSON");
  auto* group = command->add_option_group("Classifier");
  flags->classifier.add_to(*group);
  auto* judging = command->add_option_group("Evaluation");
  judging
      ->add_option("--eval", flags->eval,
                   "report accuracy, F1 and calibration by source, on JSON lines with text, label and source")
      ->type_name("FILE...");
  judging->add_option("--data", flags->data, "the same by dataset, on data in LongBench's format")
      ->type_name("PATH...");
  judging->add_option("--errors", flags->errors, "also show the N most confident mistakes")->type_name("N");
  judging->add_option("--bench", flags->bench, "time the classifier on prompts of four lengths, N times each")
      ->check(CLI::Range(1, 1000000))
      ->type_name("N");
  auto* training = command->add_option_group("Training");
  auto* train =
      training->add_option("--train", flags->train, "train on JSON lines with text, label and source")
          ->type_name("FILE...");
  training
      ->add_option("--valid", flags->valid,
                   "validation prompts, on which probabilities are calibrated and the classifier is scored")
      ->type_name("FILE...");
  training
      ->add_option("--phrasings", flags->phrasings,
                   "file of additional phrasings, combined with the contexts of the training prompts")
      ->type_name("FILE");
  training->add_option("--copies", flags->copies, "prompts made from each phrasing")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  training
      ->add_option("--leave-out", flags->leave_out,
                   "exclude sources with this prefix from training, and score on them")
      ->type_name("PREFIX");
  training->add_option("--out", flags->out, "file to write the classifier to")->type_name("FILE");
  for (auto* option : training->get_options())
    if (option != train) option->needs(train);
  command->callback([flags] { classify(*flags); });
}

}  // namespace windowkv::cli
