#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// llama.cpp's flags, so that what its users type does the same here or says what to use instead.
namespace windowkv::cli {

/// What follows a flag on the command line.
enum class Takes {
  kNothing,
  kValue,
  kSwitch,  ///< perhaps a word that is_switch_word
};

/// What becomes of a flag.
enum class Fate {
  kOurs,     ///< it is another name of a flag of ours
  kIgnored,  ///< there is nothing to do
  kRefused,
};

/// What a flag of llama.cpp comes to.
struct Meaning {
  Fate fate = Fate::kOurs;
  /// kOurs: our flag ("--chunk"), perhaps with a value of its own ("--device=cpu"). kIgnored: what the user
  /// is told, or "" for nothing. kRefused: why, and what to use instead.
  std::string text;
};

/// One of llama.cpp's flags, under all its names.
struct LlamaFlag {
  std::string_view names;  ///< "-fa, --flash-attn"; "--rope-*" stands for all that begin so
  Takes takes = Takes::kNothing;
  Fate fate = Fate::kOurs;
  std::string_view text;  ///< as Meaning's
  /// Where what it comes to depends on the value ("" for none); null otherwise.
  Meaning (*by_value)(const std::string& value) = nullptr;

  Meaning meaning(const std::string& value) const {
    return by_value != nullptr ? by_value(value) : Meaning{fate, std::string(text)};
  }
};

/// Whether a word says on, off or auto, in any of the ways that llama.cpp has for it.
bool is_switch_word(std::string_view word);

/// The row of a flag as typed ("-fa"), null for a flag that llama.cpp does not have either. A command's own
/// flags come first: where it has one of that name, the table is not asked.
const LlamaFlag* find_llama_flag(std::string_view name);

}  // namespace windowkv::cli
