#pragma once

#include <string>

namespace windowkv::cli {

/// The text that windowkv comes with, for commands without --haystack. Throws Error where it is not found.
std::string default_haystack();

/// A text file, or the .txt files of a folder by name with empty lines between. Throws Error for what cannot
/// be read or is not UTF-8.
std::string read_haystack(const std::string& path);

}  // namespace windowkv::cli
