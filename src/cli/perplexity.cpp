// windowkv perplexity: what a compressed cache costs on the text that follows.
#include "eval/perplexity.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/eval_report.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/provenance.h"
#include "cli/report.h"
#include "cli/resumable.h"
#include "support/file.h"
#include "support/hash.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

struct PerplexityFlags {
  ModelFlags model;
  TaskFlags task;
  ContenderFlags contenders;
  std::vector<std::string> files;
  std::vector<int64_t> lengths = {4096};
  int64_t limit = -1;
  std::string out;
  std::string json;
  std::string markdown;
};

/// The documents of one length.
struct Part {
  int64_t length;
  std::vector<eval::PerplexityDocument> documents;
  std::vector<eval::PerplexitySummary> summaries = {};  ///< by contender
  int64_t done() const { return summaries.empty() ? 0 : summaries.front().documents; }
};

Table table_of(std::span<const eval::Contender> contenders, std::span<const Part> parts) {
  Table rows = {{"tokens", "documents", "policy", "kept", "perplexity", "beside full", "95 % interval"}};
  for (const auto& part : parts)
    for (size_t c = 0; c < contenders.size() && part.done() > 0; ++c) {
      const auto& s = part.summaries[c];
      rows.push_back({std::to_string(part.length), std::to_string(s.documents), contenders[c].name,
                      percent(s.kept_share), fmt::format("{:.4f}", s.perplexity),
                      c == 0 ? "1" : fmt::format("{:.4f}", s.ratio.mean),
                      c == 0            ? ""
                      : s.documents < 2 ? "-"  // one says nothing of others
                                        : fmt::format("{:.4f} to {:.4f}", s.ratio.low, s.ratio.high)});
    }
  return rows;
}

nlohmann::ordered_json json_of(std::span<const eval::Contender> contenders, std::span<const Part> parts) {
  auto rows = nlohmann::ordered_json::array();
  for (const auto& part : parts)
    for (size_t c = 0; c < contenders.size(); ++c) {
      const auto& s = part.summaries[c];
      rows.push_back({{"tokens", part.length},
                      {"documents", s.documents},
                      {"policy", contenders[c].name},
                      {"kept_share", s.kept_share},
                      {"perplexity", s.perplexity},
                      {"ratio", estimate_json(s.ratio)}});
    }
  return rows;
}

void perplexity(const PerplexityFlags& flags) {
  catch_interrupts();
  const auto json = open_output(flags.json);
  const auto markdown = open_output(flags.markdown);
  const auto log = open_log(flags.out);
  const auto task = flags.task.choice();
  std::vector<std::string> texts;
  for (const auto& file : flags.files) {
    texts.push_back(read_file(file));
    check_utf8(texts.back(), file.c_str());
  }
  const auto model = flags.model.load();
  const int layers = model->hparams().n_full_layers();
  std::vector<eval::Contender> contenders = {eval::make_contender("full", "100%", layers)};
  for (auto& contender : eval::make_contenders(flags.contenders.policies, flags.contenders.budgets, layers))
    if (contender.kv != "full") contenders.push_back(std::move(contender));
  auto lengths = flags.lengths;
  sort_unique(lengths);
  std::vector<Part> parts;
  for (const int64_t length : lengths) {
    check_context(model->hparams(), length);
    parts.push_back({length, eval::cut_documents(*model, flags.files, texts, length, flags.limit)});
    if (parts.back().documents.empty())
      throw Error(
          fmt::format("no text has {} tokens; give longer ones with -f, or smaller --lengths", length));
  }
  const auto model_hash = fnv1a64_of_file(model->path());

  Engine engine(*model, flags.model.engine());
  eval::PerplexityOptions options;
  options.task = task;
  options.log = log.get();
  const auto kv = flags.model.engine().kv;
  options.setup =
      fnv1a64(fmt::format("{} {} {} {} {} {}", WINDOWKV_VERSION, model_hash, calibration_key(*model),
                          to_string(kv.k), to_string(kv.v), flags.task.text()));
  options.cancelled = interrupted;
  size_t wanted = 0, done = 0;
  for (auto& part : parts) {
    Progress progress(fmt::format("perplexity, {} tokens", part.length));
    options.progress = [&](int64_t now, int64_t total) { progress.update(now, total); };
    part.summaries =
        eval::summarize_perplexity(eval::run_perplexity(engine, part.documents, contenders, options));
    progress.clear();
    wanted += part.documents.size();
    done += static_cast<size_t>(part.done());
  }
  const auto table = table_of(contenders, parts);
  if (done > 0) print(table_text(table));
  end_if_interrupted(done, wanted, "documents", {flags.json, flags.markdown},
                     how_to_continue(flags.out, log.get()));
  if (json)
    json->commit(json_text({{"provenance", facts_json(provenance(*model, model_hash))},
                            {"perplexity", json_of(contenders, parts)}},
                           2));
  if (markdown) markdown->commit(markdown_table(table));
}

}  // namespace

void add_perplexity(CLI::App& app) {
  auto flags = std::make_shared<PerplexityFlags>();
  auto* command = app.add_subcommand("perplexity", "Perplexity of long texts whose first half is compressed");
  command->footer(
      "Texts are cut into documents of equal length. The first half of each is the prompt, of which every\n"
      "policy keeps its budget; the second half is scored, token by token, with what was kept. The full\n"
      "cache is always there; \"beside full\" is how many times its perplexity the others have.\n"
      "\n"
      "Example:\n"
      "  windowkv perplexity -m model.gguf -f book.txt --lengths 4k --policies windowkv,snapkv --budgets "
      "6%,12%");
  flags->model.add_to(*command);
  auto* group = command->add_option_group("Perplexity");
  group->add_option("-f,--file", flags->files, "texts, UTF-8")->required()->type_name("FILE...");
  add_lengths(*group, "--lengths", flags->lengths, "tokens of a document, one or more");
  add_limit(*group, flags->limit, "use only the first N documents");
  group
      ->add_option("--out", flags->out,
                   "write each result as a JSON line as soon as it is ready; running the command again "
                   "continues from the file")
      ->type_name("FILE");
  group->add_option("--json", flags->json, "write the summary as JSON")->type_name("FILE");
  group->add_option("--markdown", flags->markdown, "write the table as Markdown")->type_name("FILE");
  flags->task.add_to(*command, /*has_rows=*/false);
  flags->contenders.add_to(*command, "; full is always included");
  command->callback([flags] { perplexity(*flags); });
}

}  // namespace windowkv::cli
