#pragma once

#include <string>

namespace windowkv::cli {

/// Where text is looked for without --haystack: beside an installed command, and in the source tree. Throws
/// Error where there is none.
std::string default_haystack();

/// A text file, or the .txt files of a folder by name with empty lines between. Throws Error for what cannot
/// be read or is not UTF-8.
std::string read_haystack(const std::string& path);

}  // namespace windowkv::cli
