#pragma once

#include <memory>
#include <string>

#include "cache/prefix_parts.h"

/// Saved prefixes: docs/prefix-store.md has the format.
namespace windowkv {

/// Throws Error where the file cannot be written, and for a store without tokens.
void write_prefix_file(const PrefixParts& parts, const std::string& annotation, const std::string& path);

/// Of the options, all but the types, which are the file's. Throws Error for a file that is truncated,
/// altered, or not of this model.
std::unique_ptr<PrefixParts> read_prefix_file(const Model& model, const std::string& path,
                                              PrefixStoreOptions options);

}  // namespace windowkv
