#pragma once

#include "cli/output.h"
#include "eval/longbench.h"

namespace windowkv::cli {

/// load_samples(), with a warning for each file that has broken rows.
inline eval::Samples read_samples(std::span<const std::string> paths, const eval::LoadOptions& options = {}) {
  auto data = eval::load_samples(paths, options);
  for (const auto& file : data.broken_files()) warn(file + "; skipped");
  return data;
}

}  // namespace windowkv::cli
