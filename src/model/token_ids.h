#pragma once

#include <string>
#include <vector>

#include "windowkv/vocab.h"

namespace windowkv {

/// The token ids of a file that holds a JSON list of them; "-" is standard input. Whether a vocabulary has
/// them is not asked. Throws Error for a file that cannot be read or is anything else.
std::vector<Token> read_token_ids(const std::string& path);

}  // namespace windowkv
