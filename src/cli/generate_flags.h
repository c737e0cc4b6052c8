#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "windowkv/generate.h"

namespace windowkv::cli {

/// -n, -c, the samplers, --stop, --grammar and --json-schema: how answers are generated.
struct GenerateFlags {
  GenerateOptions plain;  ///< as the flags have it, before options()
  int64_t seed = -1;
  std::string grammar_file, json_schema_file;
  std::optional<std::string> json_schema;
  int64_t context = -1;  ///< of prompt and answer; 0: the trained one; below: any

  void add_to(CLI::App& app);
  /// Reads the grammar or the schema and checks the samplers; Ctrl-C cancels. `escape`: replace escapes in
  /// --stop. Throws Error for values that cannot be used.
  GenerateOptions options(bool escape) const;
  /// The most tokens of an answer to a prompt of n tokens. Throws Error where -c leaves no room for one.
  int64_t answer_tokens(const HParams& hp, int64_t n) const;
};

/// Throws Error for a grammar that the model's vocabulary does not fit.
void check_grammar(const GenerateOptions& options, const Model& model);

}  // namespace windowkv::cli
