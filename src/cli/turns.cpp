// windowkv turns: further questions about a document beside fresh prompts.
#include "eval/turns.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

namespace {

struct TurnsFlags {
  ModelFlags model;
  PolicyFlags policy;
  PromptFlags prompt;
  std::vector<std::string> stores = {"q8_0", "f16"};
  int64_t predict = 64;
  std::string json;
};

void turns(const TurnsFlags& flags) {
  catch_interrupts();
  const auto file = open_output(flags.json);
  eval::TurnsOptions options;
  for (const auto& store : flags.stores) options.stores.push_back(parse_kv_type(store));
  options.max_tokens = flags.predict;
  options.cancelled = interrupted;
  const auto sources = flags.prompt.read();
  if (sources.size() < 2) throw Error("give at least two questions with -p, about one document");
  const Task task = flags.policy.task.choice()(kNeutralTask, sources.back().text).task;
  const auto model = flags.model.load();
  std::vector<std::vector<Token>> prompts;
  for (const auto& source : sources) {
    prompts.push_back(source.prompt(*model).tokens);
    check_context(model->hparams(), static_cast<int64_t>(prompts.back().size()), flags.predict);
  }
  const auto policy = flags.policy.make(model->hparams(), task);
  Engine engine(*model, flags.model.engine());
  Progress progress("turns");
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  const auto results = eval::run_turns(engine, *model, prompts, *policy, options);
  progress.clear();

  std::vector<std::vector<std::string>> table = {{"store", "question", "tokens", "from the store",
                                                  "first token", "fresh", "share", "KL", "top-1",
                                                  "answer tokens"}};
  auto rows = nlohmann::ordered_json::array();
  for (const auto& r : results) {
    table.push_back(
        {std::string(to_string(r.store)), std::to_string(r.question), std::to_string(r.prompt_tokens),
         std::to_string(r.reused_tokens), fmt::format("{:.0f} ms", r.stored_ms),
         fmt::format("{:.0f} ms", r.fresh_ms), fmt::format("{:.2f} %", 100 * r.stored_ms / r.fresh_ms),
         fmt::format("{:.5f}", r.fidelity.mean_kl), fmt::format("{:.1f} %", 100 * r.fidelity.top1_agreement),
         std::to_string(r.fidelity.steps)});
    rows.push_back({{"store", to_string(r.store)},
                    {"question", r.question},
                    {"prompt_tokens", r.prompt_tokens},
                    {"reused_tokens", r.reused_tokens},
                    {"first_token_ms", r.stored_ms},
                    {"fresh_first_token_ms", r.fresh_ms},
                    {"mean_kl", r.fidelity.mean_kl},
                    {"top1_agreement", r.fidelity.top1_agreement},
                    {"steps", r.fidelity.steps}});
  }
  print(table_text(table));
  if (file) file->commit(json_text(rows, 2));
}

}  // namespace

void add_turns(CLI::App& app) {
  auto flags = std::make_shared<TurnsFlags>();
  auto* command = app.add_subcommand("turns", "Measure further questions from a prefix store");
  command->footer(
      "The first question fills a prefix store; each further one is answered from it and from a fresh "
      "prompt\n"
      "with the same tokens. KL and top-1 compare their next-token distributions along the fresh prompt's\n"
      "answer; share is the time to the first token beside the fresh prompt's.\n"
      "\n"
      "Example:\n"
      "  windowkv turns -m model.gguf -f book.txt -p \"Who sent the letter?\" -p \"What did it say?\"");
  flags->model.add_to(*command);
  flags->prompt.add_to(*command, PromptFlags::Takes::kSeveralPrompts);
  flags->policy.add_to(*command);
  auto* group = command->add_option_group("Turns");
  group->add_option("--stores", flags->stores, "types of the stores to compare")
      ->delimiter(',')
      ->type_name("TYPE,...")
      ->capture_default_str();
  group->add_option("-n,--predict", flags->predict, "maximum tokens of the fresh prompts' answers")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 20))
      ->capture_default_str();
  group->add_option("--json", flags->json, "write the results as JSON")->type_name("FILE");
  command->callback([flags] { turns(*flags); });
}

}  // namespace windowkv::cli
