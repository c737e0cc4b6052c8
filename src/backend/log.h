#pragma once

#include <string>

#include "windowkv/log.h"

namespace windowkv {

/// What ggml and libllama log as errors in this thread from here on.
class GgmlErrors {
 public:
  GgmlErrors();
  /// The first line since this was made, or since another of this thread was; "" if none.
  std::string first() const;
  /// The same as " (LINE)".
  std::string in_brackets() const;
};

/// Starts keeping those lines, and keeps them off stderr; idempotent. Does nothing after keep_log_handlers().
void capture_ggml_logs();
/// From here on they go to stderr instead, and what ggml says of its state to stdout: for servers.
void print_ggml_log();

}  // namespace windowkv
