#pragma once

#include <string>
#include <vector>

namespace windowkv::cli {

/// Throws Error with `hint`, which says where to get it, for a program that is not on PATH.
void require_program(const std::string& name, const std::string& hint);

/// Runs a program found on PATH and returns what it printed. Throws Error with its last line on standard
/// error where it fails, and Cancelled, after ending it, on Ctrl-C.
std::string run_program(const std::vector<std::string>& arguments);

}  // namespace windowkv::cli
