#pragma once

#include <string>

#include "windowkv/vocab.h"

namespace windowkv::cli {

/// Throws Error, with the parser's words, for a grammar (GBNF, rule `root`) that libllama cannot read.
/// Without a vocabulary, tokens that the grammar names are not looked up.
void check_grammar(const std::string& grammar, const Vocab* vocab);

}  // namespace windowkv::cli
