#pragma once

#include <string_view>

namespace windowkv {

/// src/server/web/index.html, compiled in.
std::string_view builtin_web_page();

}  // namespace windowkv
