#pragma once

#include <string>

namespace windowkv::server {

/// 32 hexadecimal digits.
std::string random_id();

/// Of a call of a tool: nine letters and digits, as Mistral's templates insist; others take any.
std::string random_call_id();

}  // namespace windowkv::server
