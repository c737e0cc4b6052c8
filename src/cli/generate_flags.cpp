#include "cli/generate_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/grammar.h"
#include "cli/help.h"
#include "cli/interrupt.h"
#include "cli/prompt_flags.h"
#include "server/json_grammar.h"
#include "support/bounded_json.h"
#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::cli {

void GenerateFlags::add_to(CLI::App& app) {
  auto& g = plain;
  auto* generation = app.add_option_group("Answer");
  generation
      ->add_option("-n,--predict,--n-predict", g.max_tokens,
                   "maximum tokens of the answer; -1: up to the model's trained context")
      ->check(CLI::Range(int64_t{-1}, int64_t{1} << 30))
      ->capture_default_str();
  generation
      ->add_option(
          "-c,--ctx-size", context,
          "maximum tokens of prompt and answer together; 0: the model's trained context (default: no "
          "limit; the cache is as large as the prompt needs)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30));
  generation
      ->add_option("--temp,--temperature", g.sampling.temperature,
                   "sampling temperature; 0: always the most probable token")
      ->capture_default_str();
  generation->add_option("--top-k", g.sampling.top_k, "sample from the K most probable tokens; 0 or -1: off")
      ->capture_default_str();
  generation
      ->add_option("--top-p", g.sampling.top_p,
                   "sample from the most probable tokens that together have this probability; 1: off")
      ->capture_default_str();
  generation
      ->add_option("--min-p", g.sampling.min_p,
                   "exclude tokens below this share of the best token's probability; 0: off")
      ->capture_default_str();
  generation->add_option("--repeat-penalty", g.sampling.repeat_penalty, "penalty on repeated tokens; 1: off")
      ->capture_default_str();
  generation
      ->add_option("--repeat-last-n", g.sampling.penalty_last_n,
                   "number of last tokens the penalties apply to; -1: all")
      ->capture_default_str();
  generation
      ->add_option("--frequency-penalty", g.sampling.frequency_penalty,
                   "penalty on a token for each time it occurred; 0: off")
      ->capture_default_str();
  generation
      ->add_option("--presence-penalty", g.sampling.presence_penalty,
                   "penalty on tokens that occurred at all; 0: off")
      ->capture_default_str();
  generation->add_option("-s,--seed", seed, "sampling seed; -1: a different one each time")
      ->check(CLI::Range(int64_t{-1}, int64_t{0xFFFFFFFF}))
      ->capture_default_str();
  generation->add_option("--stop", g.stop, "end the answer before this text; may be given several times")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  auto* ignore = generation->add_flag("--ignore-eos", g.ignore_end, "continue past end-of-generation tokens");
  auto* grammar =
      generation
          ->add_option("--grammar", g.sampling.grammar,
                       "constrain the answer with a grammar in llama.cpp's GBNF, with a rule root")
          ->type_name("TEXT")
          ->excludes(ignore);
  auto* in_file = generation->add_option("--grammar-file", grammar_file, "read the grammar from a file")
                      ->type_name("FILE")
                      ->excludes(grammar, ignore);
  auto* schema = generation
                     ->add_option("-j,--json-schema", json_schema,
                                  "make the answer JSON that follows this JSON Schema; {} is any object")
                     ->type_name("JSON")
                     ->excludes(grammar, in_file, ignore);
  generation->add_option("--json-schema-file", json_schema_file, "read the schema from a file")
      ->type_name("FILE")
      ->excludes(grammar, in_file, schema, ignore);
  show_in_short_help(*generation, {"--predict", "--temp"});
}

namespace {

/// `what`: where the schema is from.
std::string grammar_of(const std::string& what, const std::string& text) {
  try {
    const auto schema = parse_bounded_json(text);
    return schema == server::Json::object() ? server::json_grammar() : server::schema_grammar(schema);
  } catch (const Error& e) {
    throw Error(fmt::format("{}: {}", what, e.what()));
  }
}

}  // namespace

GenerateOptions GenerateFlags::options(bool escape) const {
  auto options = plain;
  options.sampling.seed = static_cast<uint32_t>(seed);  // -1 is the random one
  if (!grammar_file.empty()) options.sampling.grammar = read_text_file(grammar_file);
  if (json_schema) options.sampling.grammar = grammar_of("--json-schema", *json_schema);
  if (!json_schema_file.empty())
    options.sampling.grammar = grammar_of(json_schema_file, read_text_file(json_schema_file));
  options.sampling.validate();
  if (!options.sampling.grammar.empty()) check_grammar(options.sampling.grammar, nullptr);
  if (escape)
    for (auto& stop : options.stop) stop = unescape(stop);
  options.cancelled = interrupted;
  return options;
}

int64_t GenerateFlags::answer_tokens(const HParams& hp, int64_t n) const {
  const int64_t wanted = plain.max_tokens;
  if (context < 0) return wanted >= 0 ? wanted : std::max<int64_t>(1, hp.n_ctx_train - n);
  const int64_t most = context > 0 ? context : hp.n_ctx_train;
  if (n + (wanted == 0 ? 0 : 1) > most)
    throw Error(
        fmt::format("the prompt has {} tokens and does not fit in the {} of -c {}; shorten it, or omit -c", n,
                    most, context));
  return wanted >= 0 ? std::min(wanted, most - n) : most - n;
}

void check_grammar(const GenerateOptions& options, const Model& model) {
  if (!options.sampling.grammar.empty()) check_grammar(options.sampling.grammar, &model.vocab());
}

}  // namespace windowkv::cli
