#pragma once

#include <cstdint>
#include <string>

namespace windowkv {

/// "1.2 MiB".
std::string bytes_text(int64_t bytes);

}  // namespace windowkv
