// windowkv niah: needle in a haystack, lengths × depths × policies, and the picture of it.
#include "eval/niah.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/provenance.h"
#include "cli/resumable.h"
#include "eval/html.h"
#include "support/file.h"
#include "support/utf8.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

struct NiahFlags {
  ModelFlags model;
  TaskFlags task;
  std::vector<int64_t> lengths = {512, 1024, 2048};
  std::string depths = "11";
  eval::Needle needle;
  std::string haystack;
  bool no_chat = false;
  std::vector<std::string> policies = {"full", "windowkv"};
  std::vector<std::string> budgets = {"12%"};
  uint64_t seed = 0;
  int repeats = 1;
  int64_t predict = 64;
  std::string out;
  std::string html;
  std::string svg;
};

/// "11": so many, evenly from 0 to 100 %, rounded as Kamradt's are. "0,50,100" or "50%": these.
std::vector<double> parse_depths(const std::string& text) {
  const auto refuse = [&](const char* why) {
    throw Error(fmt::format("--depths \"{}\": {}; give how many (11), or depths in percent (0,25,50 or 50%)",
                            text, why));
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
  if (!(depths.front() >= 0 && depths.back() <= 100)) refuse("a depth is not within 0 to 100 %");
  return depths;
}

/// Where text is looked for without --haystack: beside an installed command, and in the source tree.
std::string default_haystack() {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const auto command = fs::read_symlink("/proc/self/exe", ignored);
  for (const auto& folder :
       {command.parent_path().parent_path() / "share" / "windowkv" / "haystack", fs::path("data/haystack")})
    if (fs::is_directory(folder, ignored)) return folder.string();
  throw Error("no haystack; give text to hide the needle in with --haystack FILE or FOLDER");
}

std::string read_haystack(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return read_text_file(path);
  std::set<std::string> files;
  for (const auto& entry : fs::directory_iterator(path))
    if (entry.is_regular_file() && entry.path().extension() == ".txt") files.insert(entry.path().string());
  if (files.empty()) throw Error(path + ": no .txt file in the folder of --haystack");
  std::string text;
  for (const auto& file : files) text += (text.empty() ? "" : "\n\n") + read_text_file(file);
  return text;
}

/// Every policy with every budget, in the order given; full has none.
std::vector<eval::Contender> make_contenders(const NiahFlags& flags, int n_layer) {
  std::vector<eval::Contender> contenders;
  for (const auto& policy : flags.policies)
    for (const auto& budget : flags.budgets) {
      auto contender = eval::make_contender(policy, budget, n_layer);
      const bool known = std::any_of(contenders.begin(), contenders.end(),
                                     [&](const auto& c) { return c.name == contender.name; });
      if (!known) contenders.push_back(std::move(contender));
    }
  return contenders;
}

/// All that an answer depends on beside policy, length, depth and seed, as a hash for the keys of results.
std::string setup_hash(const NiahFlags& flags, const std::string& model_hash, const std::string& haystack,
                       bool chat) {
  const nlohmann::json all = {
      WINDOWKV_VERSION,    model_hash, fnv1a64(haystack), flags.needle.sentence, flags.needle.question,
      flags.needle.answer, chat,       flags.predict,     flags.task.text()};
  return fnv1a64(all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

std::string one_digit(double value) {
  return fmt::format("{:.1f}", value);
}

std::vector<std::vector<std::string>> summary_rows(const eval::NiahGrid& grid,
                                                   const std::vector<eval::NiahSummary>& summaries) {
  std::vector<std::vector<std::string>> rows(1);
  rows[0].push_back("policy");
  for (auto length : grid.lengths) rows[0].push_back(fmt::format("{}", length));
  for (const char* name : {"mean", "exact", "kept"}) rows[0].push_back(name);
  for (const auto& s : summaries) {
    auto& row = rows.emplace_back();
    row.push_back(s.name);
    for (double value : s.by_length) row.push_back(one_digit(value));
    row.push_back(one_digit(s.overall));
    row.push_back(one_digit(s.exact) + " %");
    row.push_back(one_digit(100 * s.kept_share) + " %");
  }
  return rows;
}

/// Everything a report is made from.
struct NiahResults {
  const NiahFlags& flags;
  const Model& model;
  const std::string& model_hash;
  const std::string& haystack_path;
  const std::string& haystack;
  bool chat;
  const eval::NiahGrid& grid;
  const std::vector<eval::Contender>& contenders;
  const std::vector<std::vector<eval::NiahCell>>& cells;
  const std::vector<eval::NiahSummary>& summaries;
};

eval::HtmlTable answers_table(const NiahResults& r) {
  eval::HtmlTable table{.header = {"policy", "length", "depth", "seed", "ROUGE-1", "exact", "prompt tokens",
                                   "needle at", "kept", "answer"}};
  const auto points = r.grid.points();
  for (size_t c = 0; c < r.contenders.size(); ++c)
    for (size_t p = 0; p < points.size(); ++p) {
      const auto& cell = r.cells[c][p];
      table.rows.push_back({r.contenders[c].name, fmt::format("{}", points[p].length),
                            fmt::format("{:g} %", points[p].depth), fmt::format("{}", points[p].seed),
                            one_digit(cell.rouge1), cell.exact ? "yes" : "no",
                            fmt::format("{}", cell.prompt_tokens), fmt::format("{}", cell.needle_position),
                            one_digit(100 * cell.kept_share) + " %", cell.answer});
    }
  table.folded = fmt::format("All {} answers", table.rows.size());
  return table;
}

std::string report_html(const NiahResults& r, const std::string& svg) {
  const auto& needle = r.flags.needle;
  eval::HtmlReport report("Needle in a haystack: " +
                          std::filesystem::path(r.model.path()).filename().string());
  report.paragraph(fmt::format(
      "One sentence is hidden at a depth of a text and asked for at its end; the answer is compared with the "
      "expected one by ROUGE-1 F1 (0 to 100). {}",
      r.grid.seeds.size() == 1
          ? "Each cell is one prompt."
          : fmt::format("Each cell is the mean of {} prompts, whose texts start at different "
                        "places of the haystack.",
                        r.grid.seeds.size())));
  report.figure(svg);
  report.heading("Means by prompt length");
  auto rows = summary_rows(r.grid, r.summaries);
  const auto header = rows.front();
  rows.erase(rows.begin());
  report.table({header, rows, ""});
  report.paragraph(
      "Columns of lengths and mean: ROUGE-1 F1. Exact: answers that contain the expected one. Kept: key and "
      "value "
      "bytes kept of the prompt's.");
  report.heading("What was asked");
  report.facts({{"Needle", needle.sentence},
                {"Question", needle.question},
                {"Expected answer", needle.answer},
                {"Prompt form", r.chat ? "the model's chat template around {text}\\n\\nQuestion: {question}"
                                       : "{text}\\n\\nQuestion: {question}\\nAnswer:"},
                {"Haystack", fmt::format("{}, {} bytes, FNV-1a 64 {}",
                                         std::filesystem::path(r.haystack_path).filename().string(),
                                         r.haystack.size(), fnv1a64(r.haystack))}});
  report.table(answers_table(r));
  report.heading("Where this comes from");
  auto facts = provenance(r.model, r.model_hash);
  facts.emplace_back("Seeds", fmt::format("{}", fmt::join(r.grid.seeds, ", ")));
  facts.emplace_back("Decoding", fmt::format("greedy, at most {} tokens", r.flags.predict));
  report.facts(facts);
  return report.html();
}

void niah(NiahFlags flags) {
  catch_interrupts();
  eval::NiahGrid grid{.lengths = flags.lengths, .depths = parse_depths(flags.depths), .seeds = {}};
  std::sort(grid.lengths.begin(), grid.lengths.end());
  grid.lengths.erase(std::unique(grid.lengths.begin(), grid.lengths.end()), grid.lengths.end());
  for (int i = 0; i < flags.repeats; ++i) grid.seeds.push_back(flags.seed + static_cast<uint64_t>(i));
  for (const auto* text : {&flags.needle.sentence, &flags.needle.question, &flags.needle.answer})
    if (utf8_first_error(*text) != std::string::npos)
      throw Error("the text of --needle, --question or --answer is not UTF-8");
  if (flags.haystack.empty()) flags.haystack = default_haystack();
  const auto haystack = read_haystack(flags.haystack);
  const auto html = open_output(flags.html);
  const auto svg = open_output(flags.svg);

  const auto task = flags.task.choice();
  const auto model = flags.model.load();
  const bool chat = !flags.no_chat && model->vocab().has_chat_template();
  const eval::NiahPrompts prompts(model->vocab(), haystack, flags.needle, chat);
  const auto contenders = make_contenders(flags, model->hparams().n_layer);
  prompts.make(grid.lengths.front(), 0, 0);  // throws where the shortest has no room
  check_context(model->hparams(), grid.lengths.back());
  const auto model_hash = fnv1a64_of_file(model->path());
  const auto log = open_log(flags.out);

  Engine engine(*model, flags.model.engine());
  Progress progress("niah");
  eval::NiahOptions options;
  options.max_tokens = flags.predict;
  options.task = task;
  options.log = log.get();
  options.setup = setup_hash(flags, model_hash, haystack, chat);
  options.cancelled = interrupted;
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  const auto cells = run_resumable(progress, flags.out, [&] {
    return eval::run_niah(engine, *model, prompts, grid.points(), contenders, options);
  });

  const auto summaries = eval::summarize_niah(grid, contenders, cells);
  const auto picture = eval::heatmap_svg(eval::niah_heatmap(grid, summaries));
  if (svg) svg->commit(picture);
  if (html)
    html->commit(report_html(
        {flags, *model, model_hash, flags.haystack, haystack, chat, grid, contenders, cells, summaries},
        picture));
  print(table_text(summary_rows(grid, summaries)));
}

}  // namespace

void add_niah(CLI::App& app) {
  auto flags = std::make_shared<NiahFlags>();
  auto* command = app.add_subcommand("niah", "Find a needle in a haystack at lengths and depths");
  command->footer(
      "Scores are ROUGE-1 F1 (0 to 100) against the expected answer; \"exact\" counts answers that contain "
      "it.\n"
      "Examples:\n"
      "  windowkv niah -m model.gguf --haystack essays/ --html niah.html --out niah.jsonl\n"
      "  windowkv niah -m model.gguf --haystack book.txt -l 4096,8192,16384 --depths 11 --policies "
      "full,windowkv,snapkv -b 6%,12%\n"
      "  windowkv niah -m model.gguf --haystack book.txt --policies windowkv,windowkv:group=1 --repeats 5");
  flags->model.add_to(*command);

  auto* test = command->add_option_group("Test");
  test->add_option("-l,--lengths", flags->lengths, "tokens of whole prompts, question and template included")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 28))
      ->capture_default_str();
  test->add_option("--depths", flags->depths,
                   "where the needle is: N depths evenly from 0 to 100 %, or a list of percents")
      ->type_name("N|P,P,...")
      ->capture_default_str();
  test->add_option("--needle", flags->needle.sentence, "sentence to hide")
      ->type_name("TEXT")
      ->capture_default_str();
  test->add_option("--question", flags->needle.question, "what is asked for it")
      ->type_name("TEXT")
      ->capture_default_str();
  test->add_option("--answer", flags->needle.answer, "what is expected")
      ->type_name("TEXT")
      ->capture_default_str();
  test->add_option(
          "--haystack", flags->haystack,
          "text file, or folder of .txt files, to hide it in; by default what windowkv was installed with")
      ->type_name("FILE|FOLDER");
  test->add_flag("--no-chat", flags->no_chat,
                 "ask with \"Question: ... Answer:\" instead of the model's chat template");
  test->add_option("--seed", flags->seed, "where in the haystack the text starts; 0: at its beginning")
      ->capture_default_str();
  test->add_option("--repeats", flags->repeats, "prompts a cell, with seeds counting up from --seed")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  test->add_option("-n,--predict", flags->predict, "most tokens of an answer")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();

  auto* caches = command->add_option_group("KV cache");
  caches
      ->add_option("--policies", flags->policies,
                   fmt::format("policies to compare: {}; with settings: windowkv:group=1:pyramid=flat",
                               fmt::join(policy_names(), ", ")))
      ->delimiter(',')
      ->capture_default_str();
  caches->add_option("-b,--budgets", flags->budgets, "prompt tokens kept, averaged over layers: N or P%")
      ->delimiter(',')
      ->capture_default_str();

  flags->task.add_to(*command, /*rows=*/true);

  auto* output = command->add_option_group("Output");
  output
      ->add_option("-o,--out", flags->out,
                   "JSON lines, one a cell, written as they come; a second run continues the file")
      ->type_name("FILE");
  output->add_option("--html", flags->html, "report of one self-contained page")->type_name("FILE");
  output->add_option("--svg", flags->svg, "the heatmaps alone")->type_name("FILE");
  command->callback([flags] { niah(*flags); });
}

}  // namespace windowkv::cli
