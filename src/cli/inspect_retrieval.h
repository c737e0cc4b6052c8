#pragma once

#include <optional>

#include "cli/options.h"

namespace windowkv::cli {

/// `inspect --retrieval`: which layers and heads know where the answer is.
struct RetrievalFlags {
  bool wanted = false;
  std::vector<std::string> data;
  std::vector<std::string> datasets;
  int64_t limit = -1;
  int64_t max_tokens = 48;
  bool heads_detail = false;
  std::string json;

  void add_to(CLI::App& app);
};

/// Measures the prompt, or the rows of --data, and shows the table. Throws Error where there is not one of
/// both, ExitWith where some prompts were left out.
void inspect_retrieval(const RetrievalFlags& flags, const PolicyFlags& policy,
                       const std::optional<PromptSource>& prompt, const Model& model, Engine& engine);

}  // namespace windowkv::cli
