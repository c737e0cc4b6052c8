#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "classify/excerpt.h"

namespace windowkv {

/// What a prompt's form says, whatever its language: how it ends, and whether the labels it ends with stand
/// before earlier examples too. Each fact is a short text such as "last label seen 3-5 times before".
std::vector<std::string> describe_shape(std::string_view text, const Excerpt& excerpt);

}  // namespace windowkv
