#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>

#include "windowkv/model.h"

namespace windowkv::cli {

/// Prompt lengths of a table, with a mark on those past the model's trained context.
class LengthMarks {
 public:
  explicit LengthMarks(const HParams& hp) : trained_(hp.n_ctx_train) {}

  std::string text(int64_t length) {
    marked_ = marked_ || length > trained_;
    return fmt::format("{}{}", length, length > trained_ ? "*" : "");
  }
  /// A line to put below the table; "" where nothing was marked.
  std::string note() const {
    return marked_ ? fmt::format("* longer than the model's trained context of {} tokens\n", trained_) : "";
  }

 private:
  int64_t trained_;
  bool marked_ = false;
};

}  // namespace windowkv::cli
