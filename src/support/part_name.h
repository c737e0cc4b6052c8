#pragma once

#include <optional>
#include <string>

namespace windowkv {

/// The name of one of a model's files, "STEM-00001-of-00003.gguf".
struct PartName {
  std::string stem;  ///< with folders
  int number;        ///< from 1
  int count;

  /// nullopt for other names, and for numbers that cannot be.
  static std::optional<PartName> parse(const std::string& path);
  /// The name of another part.
  std::string path(int of) const;
};

}  // namespace windowkv
