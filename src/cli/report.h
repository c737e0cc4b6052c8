#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>

#include "windowkv/classifier.h"
#include "windowkv/engine.h"
#include "windowkv/generate.h"

namespace windowkv::cli {

/// All that a run leaves to tell.
struct RunReport {
  const Model& model;
  const Policy& policy;
  std::span<const Token> prompt;
  const Sequence& sequence;
  const Generation& generation;
  TaskDecision task;
  double load_ms = 0;
  const PrefixStore* store = nullptr;  ///< null where none was used

  double first_token_ms() const { return sequence.timing.total + generation.first_token_ms; }
};

/// The trace, as docs/trace.md defines it.
nlohmann::ordered_json trace_json(const RunReport& report);
/// What --json prints: the answer first, then what the trace says of it, but for tokens and kept positions.
nlohmann::ordered_json answer_json(const RunReport& report);
/// JSON as text; bytes that are not UTF-8 are replaced.
std::string json_text(const nlohmann::ordered_json& json, int indent = -1);

/// The closing table.
std::string summary_text(const RunReport& report);

}  // namespace windowkv::cli
